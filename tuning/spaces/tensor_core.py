"""What the tensor-core spaces share: the schedule of the pipelined description and its variants.

Threads of a block are (4, 8, warps). A warp computes 16 rows of the query tile; scores, weights and
the output stay in its registers, spread as the matrix instructions leave them, and the weights are
the next product's operand where they are. Keys and values come through shared memory, loaded
while another tile is computed with: with ``cp.async``, two tiles of each and one barrier a tile; or
by the bulk copy engine into rings of tiles, whose barriers let warps run apart.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from ...workloads import PrefillShape, PrefillSpec, SymbolicShape
from ...workloads.pipelined import PipelinedTiles, pipelined_attention
from ..intrinsics import (
    CHUNK,
    FRAGMENT,
    PTX_TYPES,
    SHARED,
    WARP_ROWS,
    Product,
    acc_intrin,
    copy_intrin,
    dot_intrin,
    panel_width,
)
from ..pipeline import (
    AHEAD,
    BARRIER_BYTES,
    BULK,
    BULK_ONCE,
    LOADS,
    LOADS_AFTER,
    MIN_BLOCKS,
    OVERLAP,
)
from ..target import ResolvedTarget
from .space import DesignSpace, Variant

_LOADS = ("k_rows", "v_rows")

# Steps of a tile before which the next one's loads may be started: behind the score product, whose
# barrier frees the tile that they overwrite; behind the maximum; before the value product.
_LOAD_POSITIONS = (1, 5, 10)
# Where products overlap: behind both, and behind the maximum.
_OVERLAP_POSITIONS = (1, 5)

#: Lanes of a row of threads, rows of threads of a warp.
_LANES_X, _LANES_Y = 4, 8
_WARP = _LANES_X * _LANES_Y

# The register file of a multiprocessor, what one thread may have of it, and what a thread needs
# besides its fragments.
_REGISTERS, _THREAD_REGISTERS, _OTHER_REGISTERS = 65536, 255, 40

# Of the registers that a thread needs, this share may do.
_SPILLED = 0.9

# The most promising first.
_Q_TILES = (128, 64, 192, 256)
_SMALLEST_TILE = 64
_KV_TILES = (128, 64, 96, 80, 176, 160, 112, 192, 32, 48, 256, 16)

# In rounds, which tiles of keys with which pipelines: whether products overlap, and the slots of
# the rings that tiles are bulk-copied into.
_Pipeline = tuple[bool, int]
_ROUNDS: dict[str, Sequence[tuple[Sequence[int], Sequence[_Pipeline]]]] = {
    "wgmma": (
        (_KV_TILES[:2], ((False, 2), (True, 2))),
        (_KV_TILES[:2], ((True, 3), (False, 3), (True, 0), (False, 0))),
        (_KV_TILES[2:], ((False, 2), (True, 2), (True, 3))),
    ),
    "mma": ((_KV_TILES, ((False, 0),)),),
}


@dataclass(frozen=True)
class Structure:
    """What decides the structure of a tensor-core schedule.

    Parameters
    ----------
    unit : str
        ``wgmma`` or ``mma``.
    q_tile, kv_tile, head_dim : int
        Rows of a query tile, of a key and value tile, and their columns.
    dtype : str
        ``float16`` or ``bfloat16``.
    overlap : bool
        Whether the value product of a tile runs while the softmax of the next one does.
    ring : int
        Slots of the rings that key and value tiles are bulk-copied into; 0 where threads copy.
    """

    unit: str
    q_tile: int
    kv_tile: int
    head_dim: int
    dtype: str
    overlap: bool = False
    ring: int = 0

    @property
    def shared_query(self) -> bool:
        """Whether the query tile lies in shared memory rather than in registers.

        ``wgmma`` takes either. With both left operands in registers, ptxas 13.0 gives a query tile
        and weights of one size the same registers, and the second tile's scores are wrong.
        """
        return self.unit == "wgmma"

    @property
    def variant(self) -> Variant:
        """What it is called by."""
        found: dict[str, Any] = {"q_tile": self.q_tile, "kv_tile": self.kv_tile}
        if self.overlap:
            found["overlap"] = True
        if self.ring:
            found["ring"] = self.ring
        return found

    @property
    def warps(self) -> int:
        """Warps of a thread block."""
        return self.q_tile // WARP_ROWS

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.warps * _WARP

    @property
    def product(self) -> Product:
        """The tensor-core instructions."""
        return Product(self.unit, self.dtype)

    @property
    def tiles(self) -> PipelinedTiles:
        """Parameters of the description."""
        slots = self.ring or 2
        return PipelinedTiles(
            self.q_tile, self.kv_tile, self.dtype, slots, slots, staged_output=True
        )

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block."""
        rows = (self.tiles.key_ring + self.tiles.value_ring) * self.kv_tile
        barriers = BARRIER_BYTES if self.ring else 0
        return (rows + self.shared_query * self.q_tile) * self.head_dim * 2 + barriers

    @property
    def registers(self) -> int:
        """About how many registers a thread needs."""
        query = 0 if self.shared_query else self.head_dim // 4
        # What is multiplied with the values stays while the next scores come.
        weights = self.kv_tile // 4 if self.overlap else 0
        return self.head_dim // 2 + self.kv_tile // 2 + query + weights + _OTHER_REGISTERS

    @property
    def whole_copies(self) -> bool:
        """Whether every thread of a warp copies as many chunks of a key or value tile."""
        return self.kv_tile * self.head_dim // CHUNK % _WARP == 0


class TensorCoreSpace(DesignSpace):
    """Fused attention on one kind of tensor-core instruction; subclasses say which."""

    kinds: ClassVar[frozenset[str]] = frozenset({"cuda"})

    #: ``wgmma`` or ``mma``.
    unit: ClassVar[str]

    #: Query tiles must be a multiple of this: rows of one instruction.
    rows: ClassVar[int]

    def runs_on(self, arch: str) -> bool:
        """Whether ``arch``, such as ``sm_90a``, has the instructions."""
        raise NotImplementedError

    def variants(
        self, spec: PrefillSpec, shape: PrefillShape, target: ResolvedTarget
    ) -> Sequence[Variant]:
        arch, limit = target.key.arch, int(target.target.attrs["max_shared_memory_per_block"])
        if not self.runs_on(arch) or spec.dtype not in PTX_TYPES or spec.head_dim % 16:
            return ()
        return [
            s.variant
            for s in self._structures(spec)
            if s.shared_bytes <= limit
            and s.registers <= min(_REGISTERS // s.threads, _THREAD_REGISTERS)
            and s.whole_copies
            and _reaches(s.q_tile, shape.qo_len)
            and _reaches(s.kv_tile, shape.num_kv)
        ]

    def _structures(self, spec: PrefillSpec) -> Iterator[Structure]:
        for kv_tiles, pipelines in _ROUNDS[self.unit]:
            for kv_tile, q_tile in itertools.product(kv_tiles, _Q_TILES):
                if q_tile % self.rows:
                    continue
                for overlap, ring in pipelines:
                    yield Structure(
                        self.unit, q_tile, kv_tile, spec.head_dim, spec.dtype, overlap, ring
                    )

    def describe(
        self,
        spec: PrefillSpec,
        shape: PrefillShape | SymbolicShape,
        variant: Variant,
        kind: str,
    ) -> Any:
        s = self._structure(spec, variant)
        _register(s)
        if isinstance(shape, SymbolicShape):
            return pipelined_attention(spec, shape, s.tiles, kind)
        return _described(spec, shape, s.tiles, kind)

    def generator(self, spec: PrefillSpec, variant: Variant) -> Any:
        from tvm.s_tir.meta_schedule.mutator import MutateTileSize
        from tvm.s_tir.meta_schedule.space_generator import ScheduleFn

        s = self._structure(spec, variant)
        return ScheduleFn(
            lambda sch: schedule(sch, s),
            sch_rules=[],
            postprocs=[],
            mutator_probs={MutateTileSize(): 1.0},
        )

    def register(self, spec: PrefillSpec, variant: Variant) -> tuple[str, ...]:
        return _register(self._structure(spec, variant))

    def _structure(self, spec: PrefillSpec, variant: Variant) -> Structure:
        q_tile, kv_tile = int(variant["q_tile"]), int(variant["kv_tile"])
        overlap, ring = bool(variant.get("overlap", False)), int(variant.get("ring", 0))
        return Structure(self.unit, q_tile, kv_tile, spec.head_dim, spec.dtype, overlap, ring)


def _described(spec: PrefillSpec, shape: PrefillShape, tiles: PipelinedTiles, kind: str) -> Any:
    """A description with variables of its own."""
    import tvm
    from tvm.s_tir import renew_defs

    return tvm.IRModule({"main": renew_defs(_parsed(spec, shape, tiles, kind)["main"])})


@lru_cache(maxsize=8)  # structures that differ in their pipeline alone come one after the other
def _parsed(spec: PrefillSpec, shape: PrefillShape, tiles: PipelinedTiles, kind: str) -> Any:
    return pipelined_attention(spec, shape, tiles, kind)


def _reaches(tile: int, length: int) -> bool:
    """Whether a tile is no more than twice too long, or the smallest there is."""
    return tile < 2 * length or tile <= _SMALLEST_TILE


def _register(s: Structure) -> tuple[str, str, str]:
    """Register what traces of this structure name; the copy, the score and the value product."""
    return (
        copy_intrin(s.dtype, s.head_dim),
        dot_intrin(s.product, s.kv_tile, s.head_dim, s.q_tile if s.shared_query else None),
        acc_intrin(s.product, s.kv_tile, s.head_dim),
    )


def schedule(sch: Any, s: Structure) -> None:
    """Schedule the pipelined description for tensor cores.

    Parameters
    ----------
    sch : tvm.s_tir.Schedule
        Of an unscheduled :func:`~prefilltune.workloads.pipelined.pipelined_attention`; scheduled in
        place.
    """
    copy, dot, acc = _register(s)
    batch, head, tile = sch.get_loops(sch.get_sblock("attention"))
    for loop, block in ((tile, "blockIdx.x"), (head, "blockIdx.y"), (batch, "blockIdx.z")):
        sch.bind(loop, block)
    for name in _LOADS:
        if s.ring:
            _lay_out(sch, name, s)
        else:
            _copy(sch, name, s, copy)
    if s.ring:
        sch.annotate(sch.get_loops(_lay_out(sch, "q_rows", s))[-2], BULK_ONCE, 1)
    elif s.shared_query:
        _copy(sch, "q_rows", s, copy)
    fragments = ("dot", "probs", "acc", "rescale") + (() if s.shared_query else ("q_rows",))
    for name in fragments:
        sch.set_scope(sch.get_sblock(name), 0, FRAGMENT)
    for name in ("scores", "weights", "tile_max", "tile_sum", "max_before", "row_max", "row_sum",
                 "whole_sum", "final_sum", "inv_sum"):  # fmt: skip
        sch.set_scope(sch.get_sblock(name), 0, "local")
    for name in ("probs", "out_rows") + (() if s.shared_query else ("q_rows",)):
        _fragment(sch, name, vectorize=True)
    _write_out(sch, s)
    for name in ("weights", "rescale"):
        _fragment(sch, name, vectorize=False)
    _row_maximum(sch)
    for name in ("scores", "tile_sum", "row_sum", "whole_sum"):
        _lanes(sch, name)
    for name in ("max_before", "row_max", "final_sum", "inv_sum", "lse"):
        _rows(sch, name)
    _products(sch, dot, acc)
    for name in ("row_max", "row_sum"):
        block = sch.get_sblock(name)
        sch.decompose_reduction(block, sch.get_loops(block)[0])
    _pipeline(sch, s)


def _copy(sch: Any, name: str, s: Structure, copy: str) -> None:
    """Copy a tile to shared memory, 16 bytes a thread, neighbouring threads along a row."""
    block = _lay_out(sch, name, s)
    row, column = sch.get_loops(block)[-2:]
    chunk, element = sch.split(column, [None, CHUNK])
    sch.tensorize(element, copy)
    step, warp, lane_y, lane_x = sch.split(
        sch.fuse(row, chunk), [None, s.warps, _LANES_Y, _LANES_X]
    )
    _bind(sch, warp, lane_y, lane_x)
    sch.unroll(step)


def _lay_out(sch: Any, name: str, s: Structure) -> Any:
    """Keep a tile in shared memory, in panels."""
    block = sch.get_sblock(name)
    sch.set_scope(block, 0, SHARED)
    width = panel_width(s.head_dim)
    if name == "q_rows":
        sch.transform_layout(block, ("write", 0), lambda r, c: [c // width, r, c % width])
    else:
        sch.transform_layout(block, ("write", 0), lambda v, r, c: [v, c // width, r, c % width])
    return block


def _write_out(sch: Any, s: Structure) -> None:
    """Output through shared memory, so that each thread writes 16 bytes, neighbours along a row."""
    rows = sch.get_sblock("out_rows")
    sch.set_scope(rows, 0, SHARED)
    # The fragments of eight rows lie in banks of their own.
    sch.storage_align(rows, 0, -2, panel_width(s.head_dim), CHUNK)
    block = sch.get_sblock("output")
    row, column = sch.get_loops(block)[-2:]
    chunk, element = sch.split(column, [None, CHUNK])
    step, warp, lane_y, lane_x = sch.split(
        sch.fuse(row, chunk), [None, s.warps, _LANES_Y, _LANES_X]
    )
    _bind(sch, warp, lane_y, lane_x)
    sch.unroll(step)
    sch.vectorize(element)


def _bind(sch: Any, warp: Any, lane_y: Any, lane_x: Any = None) -> None:
    sch.bind(warp, "threadIdx.z")
    sch.bind(lane_y, "threadIdx.y")
    if lane_x is not None:
        sch.bind(lane_x, "threadIdx.x")


def _split_rows(sch: Any, row: Any) -> tuple[Any, Any, Any]:
    """Rows of a tile as (warp, half, lane): a thread holds two rows, 8 apart."""
    return sch.split(row, [None, 2, _LANES_Y])


def _split_columns(sch: Any, column: Any) -> tuple[Any, Any, Any]:
    """Columns of a tile as (fragment, lane, pair)."""
    return sch.split(column, [None, _LANES_X, 2])


def _fragment(sch: Any, name: str, *, vectorize: bool) -> None:
    """Spread a step over [rows, columns] as a fragment is."""
    row, column = sch.get_loops(sch.get_sblock(name))[-2:]
    warp, half, lane_y = _split_rows(sch, row)
    fragment, lane_x, pair = _split_columns(sch, column)
    sch.reorder(warp, lane_y, lane_x, fragment, half, pair)
    _bind(sch, warp, lane_y, lane_x)
    for loop in (fragment, half):
        sch.unroll(loop)
    (sch.vectorize if vectorize else sch.unroll)(pair)


def _row_maximum(sch: Any) -> None:
    """Each lane its own columns, then across the lanes."""
    row, column = sch.get_loops(sch.get_sblock("tile_max"))[-2:]
    warp, half, lane_y = _split_rows(sch, row)
    fragment, lane_x, pair = _split_columns(sch, column)
    sch.reorder(warp, lane_y, half, lane_x, fragment, pair)
    _bind(sch, warp, lane_y, lane_x)
    sch.unroll(fragment)
    sch.unroll(pair)


def _lanes(sch: Any, name: str) -> None:
    """Spread a step over [rows, lanes] and whatever follows."""
    block = sch.get_sblock(name)
    loops = sch.get_loops(block)
    row, lane_x, *inner = loops[-3:] if name == "tile_sum" else loops[-2:]
    warp, half, lane_y = _split_rows(sch, row)
    if name == "whole_sum":
        sch.reorder(warp, lane_y, half, lane_x)
    else:
        sch.reorder(warp, lane_y, lane_x, half, *inner)
        sch.unroll(half)
    _bind(sch, warp, lane_y, lane_x)
    for loop in inner:
        sch.unroll(loop)
    if name == "tile_sum":
        sch.decompose_reduction(block, inner[0])


def _rows(sch: Any, name: str) -> None:
    """Spread a step over rows; the lanes of a row all do the same."""
    warp, half, lane_y = _split_rows(sch, sch.get_loops(sch.get_sblock(name))[-1])
    sch.reorder(warp, lane_y, half)
    _bind(sch, warp, lane_y)
    sch.unroll(half)


def _products(sch: Any, dot_name: str, acc_name: str) -> None:
    """Tensorize both products; what clears their results is spread as a fragment is."""
    for step, name in (("dot", dot_name), ("acc", acc_name)):
        block = sch.get_sblock(step)
        warp, row = sch.split(sch.get_loops(block)[-3], [None, WARP_ROWS])
        sch.bind(warp, "threadIdx.z")
        # Scores start at zero in every tile, the output once.
        init = sch.decompose_reduction(block, row if step == "dot" else sch.get_loops(block)[0])
        sch.tensorize(row, name)
        row, column = sch.get_loops(init)[-2:]
        half, lane_y = sch.split(row, [2, _LANES_Y])
        fragment, lane_x, pair = _split_columns(sch, column)
        sch.reorder(lane_y, lane_x, fragment, half, pair)
        sch.bind(lane_y, "threadIdx.y")
        sch.bind(lane_x, "threadIdx.x")
        for loop in (fragment, half, pair):
            sch.unroll(loop)


def _pipeline(sch: Any, s: Structure) -> None:
    loop = sch.get_loops(sch.get_sblock("scores"))[0]
    sch.annotate(loop, LOADS, len(_LOADS))
    if s.overlap:
        sch.annotate(loop, OVERLAP, 1)
    if s.ring:
        sch.annotate(loop, BULK, s.warps)
        sch.annotate(loop, AHEAD, _choice(sch, (1, s.ring)))
    positions = _OVERLAP_POSITIONS if s.overlap else _LOAD_POSITIONS
    sch.annotate(loop, LOADS_AFTER, _choice(sch, positions))
    # A spill or two may pay; but not in the midst of products that overlap.
    fewest = s.registers if s.overlap else s.registers * _SPILLED
    most = max(1, int(_REGISTERS / (fewest * s.threads)))
    sch.annotate(loop, MIN_BLOCKS, _choice(sch, tuple(range(1, most + 1))))


def _choice(sch: Any, candidates: Sequence[int]) -> Any:
    return sch.sample_categorical(list(candidates), [1 / len(candidates)] * len(candidates))
