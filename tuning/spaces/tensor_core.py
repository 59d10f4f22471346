"""What the tensor-core spaces share: the schedule of the pipelined description and its variants.

Threads of a block are (4, 8, warps). A warp computes 16 rows of the query tile; scores, weights and
the output stay in its registers, spread as the matrix instructions leave them, and the weights are
the next product's operand where they are. Keys and values come through shared memory, loaded
while another tile is computed with: with ``cp.async``, two tiles of each and one barrier a tile; or
by the bulk copy engine into rings of tiles, whose barriers let warps run apart.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

from ...workloads import PackedShape, PrefillShape, PrefillSpec, SymbolicShape
from ..derivation import PipelinedTiles, pipelined_attention
from ..intrinsics import (
    CHUNK,
    FRAGMENT,
    PTX_TYPES,
    SHARED,
    WARP_ROWS,
    WARPGROUP,
    Product,
    acc_intrin,
    copy_intrin,
    copy_row_intrin,
    dot_intrin,
    panel_width,
)
from ..intrinsics.registers import REGISTERS, THREAD_REGISTERS, begun_with, left_over
from ..pipeline import (
    AHEAD,
    ALTERNATE,
    BARRIER_BYTES,
    BULK,
    BULK_ONCE,
    HALVES,
    LOADS,
    LOADS_AFTER,
    MIN_BLOCKS,
    ON_DEMAND,
    OVERLAP,
    PERSISTENT,
    PRODUCER,
    RANKING_BYTES,
    SECTIONS,
)
from ..target import ResolvedTarget
from .row_threads import (
    LANES_Y,
    WARP,
    RowThreads,
    bind,
    bind_blocks,
    bind_chunks,
    decompose_carried,
    unroll,
)
from .space import DesignSpace, Variant, heads_of_a_tile, one_schedule, reaches

_LOADS = ("k_rows", "v_rows")

# How many steps of a tile come before the next one's loads are started: the score product alone,
# whose barrier frees the tile that they overwrite; all up to the maximum; or all up to the value
# product. Where that product runs beside the steps, there is no third place.
_LOAD_POSITIONS = (1, 5, 10)
_OVERLAP_POSITIONS = (1, 5)

# The same places where a tile's maximum, on demand, is one step with all that it moves.
_ON_DEMAND_LOAD_POSITIONS = (1, 3, 7)
_ON_DEMAND_OVERLAP_POSITIONS = (1, 3)

# Registers that a thread needs besides its fragments, fewer where it loads nothing; and for what it
# keeps of the rows of another 16.
_OTHER_REGISTERS, _OF_CONSUMERS, _OF_ROWS = 40, 32, 8

# A thread may be left this share of the registers that it needs: another block on a multiprocessor
# can bring more than a spill or two costs.
_SPILLED = 0.9

# Columns of the widest result of `wgmma` (PTX ISA, "wgmma.mma_async").
_WIDEST_PRODUCT = 256

# Columns of a tile: what one step of a product sums over, or two of its results side by side.
_MULTIPLE = 16

# Rows of query tiles, and of key and value tiles; of each the most promising first.
_Q_TILES = (128, 64, 192, 256)
_SMALLEST_TILE = 64
_KV_TILES = (128, 64, 96, 80, 176, 160, 112, 192, 32, 48, 256, 16)

# Of heads so wide that their output has no place in shared memory beside keys and values.
_DIRECT_KV_TILES = (64, 80, 96)


@dataclass(frozen=True)
class Pipeline:
    """How the loop over key and value tiles is pipelined.

    Parameters
    ----------
    overlap : bool
        Whether the value product of a tile runs while the softmax of the next one does; needs
        rings.
    ring : int
        Slots of the rings that key and value tiles are bulk-copied into; 0 where threads copy.
    persistent : int
        Multiprocessors of the GPU that a persistent grid is for; needs rings. 0 where every tile
        of queries has a block of its own.
    alternate : bool
        Whether two warpgroups take turns at the tensor cores; needs overlap.
    producer : bool
        Whether a warpgroup of its own starts all loads; needs overlap and a persistent grid.
    direct : bool
        Whether the output is written from registers, and nothing in shared memory is for the next
        tile alone: neither a place of its query, nor one of the output; needs a persistent grid.
    warp_rows : int
        That a warp computes; more than 16 with ``mma`` alone.
    reload_query : bool
        Whether a warp of ``mma`` reads its queries from shared memory again for every tile of
        keys, rather than keep them in registers.
    aligned : bool
        Whether query tiles begin with the first row that is no padding, where padding comes first.
    halves : bool
        Whether a warpgroup that sees no more than half of the last tile of keys computes with that
        half alone; needs producer.
    on_demand : bool
        Whether the maximum of a tile is computed only where the one before does no longer do, which
        is asked first.
    sections : int
        That heads are taken in, one after another; more than one needs producer.
    heads : int
        Of a group, which share a query tile.
    """

    overlap: bool = False
    ring: int = 0
    persistent: int = 0
    alternate: bool = False
    producer: bool = False
    direct: bool = False
    warp_rows: int = WARP_ROWS
    reload_query: bool = False
    aligned: bool = False
    halves: bool = False
    on_demand: bool = False
    sections: int = 1
    heads: int = 1

    @staticmethod
    def of(variant: Variant) -> Pipeline:
        """That of a variant, which says what is not as usual."""
        usual = asdict(Pipeline())
        return Pipeline(**{n: type(each)(variant.get(n, each)) for n, each in usual.items()})

    @property
    def chosen(self) -> Variant:
        """What is not as usual."""
        usual = asdict(Pipeline())
        return {name: value for name in usual if (value := getattr(self, name)) != usual[name]}


_RELOADING = Pipeline(False, 0, warp_rows=32, reload_query=True)
_OF_16_ROWS = (Pipeline(False, 0), Pipeline(False, 0, reload_query=True))
_WARP_ROUNDS = (
    (_KV_TILES[:2], (_RELOADING, Pipeline(False, 0, warp_rows=32))),
    (_KV_TILES[:2], _OF_16_ROWS),
    (_KV_TILES[2:], (_RELOADING, *_OF_16_ROWS)),
)

_Rounds = Sequence[tuple[Sequence[int], Sequence[Pipeline]]]

_WARPGROUP_ROUNDS: _Rounds = (
    (
        _KV_TILES[:2],
        (
            Pipeline(False, 2),
            Pipeline(True, 2),
            *(
                Pipeline(True, 2, persistent=1, producer=True, aligned=a, halves=h)
                for a, h in itertools.product((False, True), repeat=2)
            ),
        ),
    ),
    (
        _DIRECT_KV_TILES,
        tuple(
            Pipeline(True, 2, persistent=1, producer=True, direct=True, aligned=a, halves=h)
            for a, h in itertools.product((False, True), repeat=2)
        ),
    ),
    (_KV_TILES[:2], (Pipeline(True, 3), Pipeline(False, 3), Pipeline(False, 0))),
    (_KV_TILES[2:], (Pipeline(False, 2), Pipeline(True, 2), Pipeline(True, 3))),
    (
        _KV_TILES[:2],
        (
            Pipeline(True, 2, persistent=1),
            Pipeline(False, 2, persistent=1),
            Pipeline(True, 2, persistent=1, alternate=True),
            Pipeline(True, 2, alternate=True),
        ),
    ),
)

# With maxima on demand first: whether they are computed anyway hangs on the numbers of the tiles.
_ON_DEMAND_ROUNDS: _Rounds = [
    (tiles, [replace(each, on_demand=True) for each in pipelines])
    for tiles, pipelines in _WARPGROUP_ROUNDS
]

# Of causal attention with more keys and values than the cache keeps.
_SECTION_ROUND = (
    _KV_TILES[:2],
    tuple(
        Pipeline(
            True, 2, persistent=1, producer=True, aligned=a, halves=True, on_demand=True, sections=n
        )
        for a, n in itertools.product((False, True), (2, 4))
    ),
)

# Of groups of heads, which share keys and values: a query tile of few positions of each of them has
# fewer rows that there are not, and sees no more keys than these positions do. As many heads as a
# group has stand there for some.
_HEADS_ROUND = (
    _KV_TILES[:2],
    tuple(
        Pipeline(True, 2, persistent=1, producer=True, aligned=a, halves=h, on_demand=True, heads=2)
        for a, h in itertools.product((False, True), repeat=2)
    ),
)

# Which tiles are tried with which pipelines. All query tiles have their turn with one round before
# the next round begins.
_ROUNDS: dict[str, _Rounds] = {
    "wgmma": (
        _ON_DEMAND_ROUNDS[0],
        _HEADS_ROUND,
        _SECTION_ROUND,
        *_ON_DEMAND_ROUNDS[1:],
        _WARPGROUP_ROUNDS[0],
    ),
    "mma": _WARP_ROUNDS,
    "mma_k8": _WARP_ROUNDS,
}

# Keys and values that an H100's L2 cache keeps: half of it, as each half of the multiprocessors has
# one of its own.
_KEPT_BYTES = 24 << 20

# Up to here 16 query rows stay in registers: they are few of a thread's.
_KEPT_COLUMNS = 128

# Query rows of two warpgroups, which may take turns.
_TURNS_ROWS = 8 * WARP_ROWS

# Of an H100 and an H200, for a target whose GPU is not here.
_MULTIPROCESSORS = 132


@dataclass(frozen=True, kw_only=True)
class TensorCoreStructure(Pipeline):
    """What decides the structure of a tensor-core schedule.

    Parameters
    ----------
    unit : str
        ``wgmma``, ``mma`` or ``mma_k8``.
    q_tile, kv_tile : int
        Rows of a query tile, and of a key and value tile.
    head_dim : int
        Elements a head in memory.
    dtype : str
        ``float16`` or ``bfloat16``.
    """

    unit: str
    q_tile: int
    kv_tile: int
    head_dim: int
    dtype: str

    @property
    def takes_halves(self) -> bool:
        """Whether warpgroups may compute with half a tile of keys, whose products there are."""
        return self.producer and self.kv_tile % (2 * _MULTIPLE) == 0

    @property
    def shared_query(self) -> bool:
        """Whether the query tile lies in shared memory rather than in registers.

        ``wgmma`` takes either. With both left operands in registers, ptxas 13.0 gives a query tile
        and weights of one size the same registers, and the second tile's scores are wrong.
        """
        return self.unit == "wgmma" or self.reload_query

    @property
    def columns(self) -> int:
        """Columns of a tile: elements of a head, and zeros up to what instructions multiply."""
        return -(-self.head_dim // _MULTIPLE) * _MULTIPLE

    @property
    def variant(self) -> Variant:
        """What it is called by."""
        return {"q_tile": self.q_tile, "kv_tile": self.kv_tile, **self.chosen}

    @property
    def warps(self) -> int:
        """Warps of a thread block that compute."""
        return self.q_tile // self.warp_rows

    @property
    def threads(self) -> int:
        """Threads of a block that compute."""
        return self.warps * WARP

    @property
    def product(self) -> Product:
        """The tensor-core instructions."""
        return Product(self.unit, self.dtype, self.warp_rows)

    @property
    def tiles(self) -> PipelinedTiles:
        """Parameters of the description."""
        return PipelinedTiles(
            self.q_tile,
            self.kv_tile,
            self.dtype,
            self.ring or 2,
            staged_output=True,
            aligned=self.aligned,
            heads=self.heads,
            head_multiple=_MULTIPLE,
        )

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block."""
        rows = 2 * self.tiles.ring * self.kv_tile
        barriers = BARRIER_BYTES if self.ring else 0
        tiles = (rows + self.shared_query * self.q_tile) * self.columns * 2 + barriers
        if not self.persistent:
            return tiles
        return tiles + RANKING_BYTES + (0 if self.direct else self._ahead_bytes)

    @property
    def _ahead_bytes(self) -> int:
        """What lets the next tile be loaded while one is not written yet.

        A place for its query, where others load it, or else one for the output, its rows set apart.
        """
        return self.q_tile * (self.columns + (0 if self.producer else CHUNK)) * 2

    def fits(self, limit: int) -> bool:
        """Whether a block has shared memory enough, and where it does with less has none left."""
        unused = limit - self.shared_bytes
        return unused >= 0 and not (self.direct and unused >= self._ahead_bytes)

    @property
    def registers(self) -> int:
        """About how many registers a thread needs."""
        query = 0 if self.shared_query else self.columns // 4
        # Overlapping, a tile's weights are read while the next tile's scores are written.
        weights = self.kv_tile // 4 if self.overlap else 0
        others = _OF_CONSUMERS if self.producer else _OTHER_REGISTERS
        fragments = self.columns // 2 + self.kv_tile // 2 + query + weights
        stacked = self.warp_rows // WARP_ROWS
        return fragments * stacked + others + _OF_ROWS * (stacked - 1)

    @property
    def most_blocks(self) -> int:
        """How many blocks a multiprocessor has registers for; 0 if not for one."""
        if self.producer:
            groups = self.warps // WARPGROUP
            operands = max(self.kv_tile, self.columns) // 2 + _OF_CONSUMERS
            fits = (
                blocks
                for blocks in range(1, 9)
                if left_over(blocks, groups) >= self.registers
                and begun_with(blocks, groups) >= operands
            )
            return max(fits, default=0)
        if self.registers > min(REGISTERS // self.threads, THREAD_REGISTERS):
            return 0
        # Never a spill where products overlap: it would stand in their midst.
        fewest = self.registers if self.overlap else self.registers * _SPILLED
        return max(1, int(REGISTERS / (fewest * self.threads)))

    @property
    def has_products(self) -> bool:
        """Whether instructions have results as wide as a head: of ``wgmma`` up to 256 columns."""
        return self.unit != "wgmma" or self.columns <= _WIDEST_PRODUCT

    @property
    def whole_copies(self) -> bool:
        """Whether tiles can be copied so.

        Threads of a warp copy as many chunks of a key or value tile; where tiles have more columns
        than there are in memory, as many rows. What fills rings copies from rows that begin at a
        multiple of 16 bytes.
        """
        if self.columns == self.head_dim:
            return self.kv_tile * self.columns // CHUNK % WARP == 0
        if self.ring:
            return self.head_dim % CHUNK == 0
        return self.kv_tile % (self.warps * LANES_Y) == 0


class TensorCoreSpace(DesignSpace):
    """Fused attention on one kind of tensor-core instruction; subclasses say which."""

    kinds: ClassVar[frozenset[str]] = frozenset({"cuda"})

    #: ``wgmma``, ``mma`` or ``mma_k8``.
    unit: ClassVar[str]

    #: Of what it multiplies.
    dtypes: ClassVar[frozenset[str]] = frozenset(PTX_TYPES)

    #: Query tiles must be a multiple of this: rows of one instruction.
    rows: ClassVar[int]

    def runs_on(self, arch: str) -> bool:
        """Whether ``arch``, such as ``sm_90a``, has the instructions."""
        raise NotImplementedError

    def variants(
        self, spec: PrefillSpec, shape: PrefillShape, target: ResolvedTarget
    ) -> Sequence[Variant]:
        arch, limit = target.key.arch, int(target.target.attrs["max_shared_memory_per_block"])
        if not self.runs_on(arch) or spec.dtype not in self.dtypes:
            return ()
        return [
            s.variant
            for s in self._structures(spec, target)
            if s.fits(limit)
            and s.most_blocks
            and s.whole_copies
            and s.has_products
            and reaches(s.q_tile, s.heads * shape.qo_len, _SMALLEST_TILE)
            and reaches(s.kv_tile, shape.num_kv, _SMALLEST_TILE)
            and (not s.aligned or _gains_by_alignment(spec, shape, s.q_tile // s.heads))
            and s.halves in _halves_tried(spec, s)
            and (s.sections == 1 or _gains_by_sections(spec, shape, s.sections))
        ]

    def _structures(
        self, spec: PrefillSpec, target: ResolvedTarget
    ) -> Iterator[TensorCoreStructure]:
        multiprocessors = _multiprocessors(target)
        for kv_tiles, pipelines in _ROUNDS[self.unit]:
            for kv_tile, q_tile in itertools.product(kv_tiles, _Q_TILES):
                if q_tile % self.rows:
                    continue
                for each in pipelines:
                    if each.alternate and q_tile != _TURNS_ROWS:
                        continue
                    few = each.warp_rows == WARP_ROWS and spec.head_dim <= _KEPT_COLUMNS
                    if each.reload_query and few:
                        continue
                    # What stands there for all multiprocessors is as many as there are.
                    persistent = multiprocessors if each.persistent else 0
                    heads = heads_of_a_tile(spec, q_tile) if each.heads > 1 else 1
                    if each.heads > 1 and heads == 1:
                        continue
                    yield self._structure_of(
                        spec, q_tile, kv_tile, replace(each, persistent=persistent, heads=heads)
                    )

    def describe(
        self,
        spec: PrefillSpec,
        shape: PrefillShape | SymbolicShape | PackedShape,
        variant: Variant,
    ) -> Any:
        s = self._structure(spec, variant)
        _register(s)
        if not isinstance(shape, PrefillShape):
            return pipelined_attention(spec, shape, s.tiles)
        return _described(spec, shape, s.tiles)

    def generator(self, spec: PrefillSpec, variant: Variant) -> Any:
        s = self._structure(spec, variant)
        return one_schedule(lambda sch: schedule(sch, s))

    def facts(self, spec: PrefillSpec, variant: Variant) -> dict[str, str]:
        s = self._structure(spec, variant)
        copies = f"bulk copies into rings of {s.ring} tiles" if s.ring else "threads copy two tiles"
        copies += ", by a warpgroup of their own" if s.producer else ""
        warps = s.warps + WARPGROUP * s.producer
        order = "the value product runs beside the next tile's softmax" if s.overlap else "in turn"
        grid = f"persistent, {s.persistent} multiprocessors" if s.persistent else "a block a tile"
        grid += ", output from registers" if s.direct or s.producer else ""
        grid += ", the next query beside this one" if s.producer and not s.direct else ""
        grid += f", heads in {s.sections} sections" if s.sections > 1 else ""
        tiles = f"{s.q_tile} query rows by {s.kv_tile} keys"
        tiles += f", rows of {s.heads} heads side by side" if s.heads > 1 else ""
        tiles += ", queries from the first that is no padding on" if s.aligned else ""
        tiles += ", half of the last keys for who sees no more" if s.halves else ""
        order += ", maxima where the anchor moves" if s.on_demand else ""
        return {
            "tiles": tiles,
            "instruction": f"{s.unit}, {s.dtype} into float32",
            "threads of a block": f"{warps * WARP} ({warps} warps)",
            "loads": copies,
            "products": "two warpgroups take turns" if s.alternate else order,
            "grid": grid,
            "shared memory of a block": f"{s.shared_bytes / 1024:.0f} KiB",
            "registers of a thread": f"about {s.registers}, by the design space's own count",
        }

    def register(self, spec: PrefillSpec, variant: Variant) -> tuple[str, ...]:
        return _register(self._structure(spec, variant))

    def _structure(self, spec: PrefillSpec, variant: Variant) -> TensorCoreStructure:
        tiles = int(variant["q_tile"]), int(variant["kv_tile"])
        return self._structure_of(spec, *tiles, Pipeline.of(variant))

    def _structure_of(
        self, spec: PrefillSpec, q_tile: int, kv_tile: int, pipeline: Pipeline
    ) -> TensorCoreStructure:
        return TensorCoreStructure(
            unit=self.unit, q_tile=q_tile, kv_tile=kv_tile, head_dim=spec.head_dim,
            dtype=spec.dtype, **asdict(pipeline),
        )  # fmt: skip


def _gains_by_alignment(spec: PrefillSpec, shape: PrefillShape, q_tile: int) -> bool:
    """Whether tiles that begin with the first valid row mask less.

    That is so where padding comes first, and the last key that a row sees is its own. Of one tile
    the padded rows cost nothing.
    """
    return spec.padding == "left" and spec.window[1] == 0 and shape.qo_len > q_tile


def _halves_tried(spec: PrefillSpec, s: TensorCoreStructure) -> Collection[bool]:
    """With which choices of computing with half a tile of keys a structure is tried.

    A warpgroup may see half of a last tile that others see all of where the last key that a row
    sees moves with the row, and half a tile is as many keys as a warpgroup has rows, or there are
    several. It then pays, but for windows, of whose few tiles no more is known.
    """
    rows = WARPGROUP * WARP_ROWS
    several = s.q_tile > rows or s.kv_tile >= 2 * rows
    before, after = spec.window
    if after is None or not (several and s.takes_halves):
        return (False,)
    return (True,) if before is None else (False, True)


def _gains_by_sections(spec: PrefillSpec, shape: PrefillShape, sections: int) -> bool:
    """Whether heads in sections keep keys and values in a cache that leave it otherwise.

    Where rows see all keys up to their own, the longest tiles of all sequences come first, each of
    which goes over its keys anew: so do those after them, and find no keys of the first ones.
    """
    before, after = spec.window
    read = 4 * shape.batch * shape.num_kv * spec.num_kv_heads * spec.head_dim
    long = before is None and after is not None and read > _KEPT_BYTES
    return long and spec.num_kv_heads % sections == 0


def _multiprocessors(target: ResolvedTarget) -> int:
    """Of the target's GPU, where it is here."""
    import tvm

    device: Any = tvm.cuda(0)
    here = target.is_here and device.exist
    return int(device.multi_processor_count) if here else _MULTIPROCESSORS


def _described(spec: PrefillSpec, shape: PrefillShape, tiles: PipelinedTiles) -> Any:
    """A description with variables of its own."""
    import tvm
    from tvm.s_tir import renew_defs

    return tvm.IRModule({"main": renew_defs(_parsed(spec, shape, tiles)["main"])})


@lru_cache(maxsize=8)  # variants with the same tiles and slots come soon after one another
def _parsed(spec: PrefillSpec, shape: PrefillShape, tiles: PipelinedTiles) -> Any:
    return pipelined_attention(spec, shape, tiles)


def _register(s: TensorCoreStructure) -> tuple[str, ...]:
    """Register what traces of this structure name; the products first."""
    return (
        dot_intrin(s.product, s.kv_tile, s.columns, s.q_tile if s.shared_query else None),
        acc_intrin(s.product, s.kv_tile, s.columns),
        *(_copy_of(s, name) for name in _copied(s)),
    )


def _copied(s: TensorCoreStructure) -> tuple[str, ...]:
    """What threads copy to shared memory."""
    if s.ring:
        return ()
    return (*_LOADS, "q_rows") if s.shared_query else _LOADS


def _copy_of(s: TensorCoreStructure, name: str) -> str:
    """The copy to a tile."""
    plain = s.unit == "mma_k8"
    if s.columns == s.head_dim:
        return copy_intrin(s.dtype, s.columns, plain=plain)
    rows = s.q_tile if name == "q_rows" else s.kv_tile
    return copy_row_intrin(s.dtype, rows, s.columns, s.head_dim, plain=plain)


def schedule(sch: Any, s: TensorCoreStructure) -> None:
    """Schedule the pipelined description for tensor cores.

    Parameters
    ----------
    sch : tvm.s_tir.Schedule
        Of an unscheduled :func:`~prefilltune.tuning.derivation.pipelined_attention`; scheduled in
        place.
    """
    dot, acc, *_ = _register(s)
    threads = RowThreads(sch, s.warp_rows // LANES_Y, binds_at_once=False)
    bind_blocks(sch)
    for name in _copied(s):
        _copy(sch, name, s)
    if s.ring:
        for name in _LOADS:
            _lay_out(sch, name, s)
        sch.annotate(sch.get_loops(_lay_out(sch, "q_rows", s))[-2], BULK_ONCE, 1)
    fragments = ("dot", "probs", "acc", "rescale") + (() if s.shared_query else ("q_rows",))
    for name in fragments:
        sch.set_scope(sch.get_sblock(name), 0, FRAGMENT)
    for name in ("scores", "weights", "tile_max", "tile_sum", "max_before", "row_max", "row_sum",
                 "whole_sum", "final_sum", "inv_sum"):  # fmt: skip
        sch.set_scope(sch.get_sblock(name), 0, "local")
    for name in ("probs", "out_rows"):
        _fragment(threads, name, vectorize=True)
    if not s.shared_query:
        _fragment(threads, "q_rows", vectorize=s.columns == s.head_dim)
    _write_out(sch, s)
    for name in ("weights", "rescale"):
        _fragment(threads, name, vectorize=False)
    threads.row_maximum()
    threads.lanes("scores")
    threads.lane_sums()
    threads.lanes("row_sum")
    threads.whole_sum()
    for name in ("max_before", "row_max", "final_sum", "inv_sum", "lse"):
        threads.rows_alone(name)
    _products(threads, dot, acc, s.warp_rows)
    decompose_carried(sch)
    _pipeline(sch, s)


def _copy(sch: Any, name: str, s: TensorCoreStructure) -> None:
    """Copy a tile to shared memory, 16 bytes a thread, neighbouring threads along a row."""
    block = _lay_out(sch, name, s)
    row, column = sch.get_loops(block)[-2:]
    if s.columns > s.head_dim:
        own, warp, lane_y = sch.split(row, [None, s.warps, LANES_Y])
        sch.tensorize(column, _copy_of(s, name))
        bind(sch, warp, lane_y)
        sch.unroll(own)
        return
    chunk, element = sch.split(column, [None, CHUNK])
    sch.tensorize(element, _copy_of(s, name))
    sch.unroll(bind_chunks(sch, row, chunk, s.warps))


def _lay_out(sch: Any, name: str, s: TensorCoreStructure) -> Any:
    """Keep a tile in shared memory, in panels."""
    block = sch.get_sblock(name)
    sch.set_scope(block, 0, SHARED)
    width = panel_width(s.columns)
    if name == "q_rows":
        sch.transform_layout(block, ("write", 0), lambda r, c: [c // width, r, c % width])
    else:
        sch.transform_layout(block, ("write", 0), lambda v, r, c: [v, c // width, r, c % width])
    return block


def _write_out(sch: Any, s: TensorCoreStructure) -> None:
    """Output through shared memory, so that each thread writes 16 bytes, neighbours along a row.

    Fewer where rows are not aligned so.
    """
    rows = sch.get_sblock("out_rows")
    sch.set_scope(rows, 0, FRAGMENT if s.direct else SHARED)
    if not s.direct:
        # Rows are set apart so that the eight of a fragment lie in different banks.
        sch.storage_align(rows, 0, -2, panel_width(s.columns), CHUNK)
    block = sch.get_sblock("output")
    row, column = sch.get_loops(block)[-2:]
    chunk, element = sch.split(column, [None, math.gcd(CHUNK, s.head_dim)])
    sch.unroll(bind_chunks(sch, row, chunk, s.warps))
    sch.vectorize(element)


def _fragment(threads: RowThreads, name: str, *, vectorize: bool) -> None:
    """Spread a step over [rows, columns] as a fragment is."""
    sch = threads.sch
    row, column = sch.get_loops(sch.get_sblock(name))[-2:]
    warp, half, lane_y = threads.split_rows(row)
    fragment, lane_x, pair = threads.split_columns(column)
    sch.reorder(warp, lane_y, lane_x, fragment, half, pair)
    threads.bind_split(warp, lane_y, lane_x)
    unroll(sch, fragment, half)
    (sch.vectorize if vectorize else sch.unroll)(pair)


def _products(threads: RowThreads, dot_name: str, acc_name: str, rows: int) -> None:
    """Tensorize both products; what clears their results is spread as a fragment is."""
    sch = threads.sch
    for step, name in (("dot", dot_name), ("acc", acc_name)):
        block = sch.get_sblock(step)
        warp, row = sch.split(sch.get_loops(block)[-3], [None, rows])
        sch.bind(warp, "threadIdx.z")
        # Scores start at zero in every tile, the output once.
        init = sch.decompose_reduction(block, row if step == "dot" else sch.get_loops(block)[0])
        sch.tensorize(row, name)
        row, column = sch.get_loops(init)[-2:]
        half, lane_y = sch.split(row, [rows // LANES_Y, LANES_Y])
        fragment, lane_x, pair = threads.split_columns(column)
        sch.reorder(lane_y, lane_x, fragment, half, pair)
        bind(sch, None, lane_y, lane_x)
        unroll(sch, fragment, half, pair)


def _pipeline(sch: Any, s: TensorCoreStructure) -> None:
    loop = sch.get_loops(sch.get_sblock("scores"))[0]
    sch.annotate(loop, LOADS, len(_LOADS))
    if s.overlap:
        sch.annotate(loop, OVERLAP, 1)
    if s.ring:
        sch.annotate(loop, BULK, s.warps)
    if s.ring and not s.producer:
        sch.annotate(loop, AHEAD, _choice(sch, (1, s.ring)))
    if s.on_demand:
        sch.annotate(loop, ON_DEMAND, 1)
    if s.alternate:
        sch.annotate(loop, ALTERNATE, 1)
    if s.persistent:
        sch.annotate(loop, PERSISTENT, s.persistent)
    if s.producer:
        sch.annotate(loop, PRODUCER, 1)
        if s.sections > 1:
            sch.annotate(loop, SECTIONS, s.sections)
        if s.halves:
            sch.annotate(loop, HALVES, s.kv_tile)
        sch.annotate(loop, LOADS_AFTER, 1)
    else:
        sch.annotate(loop, LOADS_AFTER, _choice(sch, _load_positions(s)))
    sch.annotate(loop, MIN_BLOCKS, _choice(sch, tuple(range(1, s.most_blocks + 1))))


def _load_positions(s: TensorCoreStructure) -> Sequence[int]:
    if s.on_demand:
        return _ON_DEMAND_OVERLAP_POSITIONS if s.overlap else _ON_DEMAND_LOAD_POSITIONS
    return _OVERLAP_POSITIONS if s.overlap else _LOAD_POSITIONS


def _choice(sch: Any, candidates: Sequence[int]) -> Any:
    return sch.sample_categorical(list(candidates), [1 / len(candidates)] * len(candidates))
