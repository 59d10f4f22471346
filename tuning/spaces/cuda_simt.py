"""Fused attention on the ordinary arithmetic of any CUDA GPU, in float32 whatever the operands.

Threads of a block are (4, 8, warps); a warp computes the same rows in every step, a thread a few of
them. Both products are register tiles over operands in shared memory, which holds the query tile,
one tile of keys and one of values, and what passes from the threads of one product to those of the
softmax and on to those of the other. Other blocks of a multiprocessor compute while one loads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

from ...workloads import PrefillShape, PrefillSpec, SymbolicShape
from ...workloads.pipelined import FRAGMENT_COLUMNS, PipelinedTiles, pipelined_attention
from ..target import ResolvedTarget
from .space import DesignSpace, Variant

#: Threads that share a row, rows of threads of a warp.
_LANES_X, _LANES_Y = 4, 8
_WARP = _LANES_X * _LANES_Y

#: float32 elements of one access to memory.
_VECTOR = 4

#: Columns of a fragment that a thread holds side by side.
_PAIR = 2

#: Rows of a tile in shared memory lie an odd number of accesses apart: eight rows, every bank once.
_ROW_ALIGN, _ROW_OFFSET = 2 * _VECTOR, _VECTOR

_FLOAT_BYTES = 4

# What one thread may have of the registers, and what it needs besides scores and output.
_THREAD_REGISTERS, _OTHER_REGISTERS = 255, 95

# (rows a thread, warps, kv_tile), the most promising first.
_SIZES = (
    (4, 4, 32), (2, 4, 32), (4, 4, 64), (2, 4, 64), (4, 2, 32), (2, 8, 32), (4, 4, 16),
    (8, 4, 16), (8, 2, 32), (2, 2, 32), (1, 4, 32), (2, 2, 16), (1, 2, 16), (1, 1, 16),
)  # fmt: skip
_SMALLEST_TILE = 32

# How far loops are unrolled: vectors of a reduction, and loads that a thread has in flight.
_MAX_REDUCTION_VECTORS, _MAX_LOADS, _CHOICES = 8, 16, 3


@dataclass(frozen=True)
class Structure:
    """What decides the structure of a schedule.

    Parameters
    ----------
    rows : int
        Query rows that a thread computes.
    warps : int
        Warps of a thread block.
    kv_tile, head_dim : int
        Rows and columns of a key or value tile.
    exchange : bool
        Whether the scores go through shared memory, so that their product can be spread over
        threads as shared memory serves it best, rather than as the softmax needs it.
    """

    rows: int
    warps: int
    kv_tile: int
    head_dim: int
    exchange: bool

    @property
    def q_tile(self) -> int:
        """Query rows of a thread block."""
        return self.warps * self.rows * _LANES_Y

    @property
    def tiles(self) -> PipelinedTiles:
        """Parameters of the description."""
        return PipelinedTiles(self.q_tile, self.kv_tile, "float32", key_ring=1, value_ring=1)

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block, at most; the weights take the place of the scores."""
        head_row, score_row = self.head_dim + _ROW_OFFSET, self.kv_tile + _ROW_OFFSET
        query_rows = self.q_tile * (head_row + score_row + FRAGMENT_COLUMNS + 1)
        return (query_rows + 2 * self.kv_tile * head_row) * _FLOAT_BYTES

    @property
    def registers(self) -> int:
        """About how many registers a thread needs."""
        return self.rows * (self.head_dim + self.kv_tile) // _LANES_X + _OTHER_REGISTERS


class CudaSimt(DesignSpace):
    """The pipelined description without tensor cores: every dtype, every architecture."""

    name: ClassVar[str] = "cuda_simt"
    kinds: ClassVar[frozenset[str]] = frozenset({"cuda"})

    def variants(
        self, spec: PrefillSpec, shape: PrefillShape, target: ResolvedTarget
    ) -> Sequence[Variant]:
        if spec.head_dim % (_LANES_X * _VECTOR):
            return ()
        limit = int(target.target.attrs["max_shared_memory_per_block"])
        structures = (
            Structure(*sizes, spec.head_dim, exchange)
            for exchange, sizes in product((True, False), _SIZES)
        )
        return [
            {"rows": s.rows, "warps": s.warps, "kv_tile": s.kv_tile, "exchange": s.exchange}
            for s in structures
            if s.shared_bytes <= limit
            and s.registers <= _THREAD_REGISTERS
            and _reaches(s.q_tile, shape.qo_len)
            and _reaches(s.kv_tile, shape.num_kv)
        ]

    def describe(
        self,
        spec: PrefillSpec,
        shape: PrefillShape | SymbolicShape,
        variant: Variant,
        kind: str,
    ) -> Any:
        return pipelined_attention(spec, shape, structure_of(spec, variant).tiles, kind)

    def generator(self, spec: PrefillSpec, variant: Variant) -> Any:
        from tvm.s_tir.meta_schedule.space_generator import ScheduleFn

        s = structure_of(spec, variant)
        return ScheduleFn(
            lambda sch: schedule(sch, s), sch_rules=[], postprocs=[], mutator_probs={}
        )


def structure_of(spec: PrefillSpec, variant: Variant) -> Structure:
    """What a variant of this space says of the schedule."""
    rows, warps, kv_tile = (int(variant[name]) for name in ("rows", "warps", "kv_tile"))
    return Structure(rows, warps, kv_tile, spec.head_dim, bool(variant["exchange"]))


def _reaches(tile: int, length: int) -> bool:
    """Whether a tile is no more than twice too long, or as small as any."""
    return tile < 2 * length or tile <= _SMALLEST_TILE


def schedule(sch: Any, s: Structure) -> None:
    """Schedule the pipelined description for threads that multiply and add.

    Parameters
    ----------
    sch : tvm.s_tir.Schedule
        Of an unscheduled :func:`~prefilltune.workloads.pipelined.pipelined_attention`; scheduled in
        place.
    """
    batch, head, tile = sch.get_loops(sch.get_sblock("attention"))
    for loop, block in ((tile, "blockIdx.x"), (head, "blockIdx.y"), (batch, "blockIdx.z")):
        sch.bind(loop, block)
    _place(sch, s)
    _copies(sch, s)
    _scores(sch, s)
    _values(sch, s)
    _output(sch, s)
    for name in ("weights", "probs", "rescale", "rescale_shared.dyn"):
        _elementwise(sch, name, s)
    _row_maximum(sch, s)
    for name in ("scores", "row_sum"):
        _lanes(sch, name, s)
    _lane_sum(sch, s)
    _whole_sum(sch, s)
    for name in ("max_before", "row_max", "final_sum", "inv_sum", "inv_sum_shared.dyn", "lse"):
        _rows(sch, name, s)
    for name in ("row_max", "row_sum"):
        block = sch.get_sblock(name)
        sch.decompose_reduction(block, sch.get_loops(block)[0])


def _place(sch: Any, s: Structure) -> None:
    """Operands that threads share go to shared memory, all else to registers."""
    # The threads that compute a row of the output are not those that hold its factors.
    for factor, name in (("rescale", "acc"), ("inv_sum", "output")):
        block = sch.get_sblock(name)
        sch.cache_read(block, factor, "shared.dyn", consumer_blocks=[block])
    if s.exchange:
        sch.cache_write(sch.get_sblock("dot"), 0, "local")
    exchanged, kept = (("dot_local",), ()) if s.exchange else ((), ("dot",))
    for name in ("q_rows", "k_rows", "v_rows", "probs", *exchanged):
        sch.set_scope(sch.get_sblock(name), 0, "shared.dyn")
    for name in ("q_rows", "k_rows", "probs", *exchanged):
        sch.storage_align(sch.get_sblock(name), 0, -2, _ROW_ALIGN, _ROW_OFFSET)
    for name in (*kept, "scores", "weights", "tile_max", "tile_sum", "max_before", "row_max",
                 "rescale", "row_sum", "whole_sum", "final_sum", "inv_sum", "acc"):  # fmt: skip
        sch.set_scope(sch.get_sblock(name), 0, "local")


def _copies(sch: Any, s: Structure) -> None:
    """Copy tiles to shared memory, neighbouring threads along a row."""
    sch.unroll(_copy(sch, "q_rows", s))
    key, value = (_copy(sch, name, s) for name in ("k_rows", "v_rows"))
    loads = _sample_divisor(sch, key, _MAX_LOADS)
    for step in (key, value):
        _, unrolled = sch.split(step, [None, loads])
        sch.unroll(unrolled)


def _copy(sch: Any, name: str, s: Structure) -> Any:
    """Bind a copy to threads; returns the loop over the accesses of one thread."""
    row, column = sch.get_loops(sch.get_sblock(name))[-2:]
    chunk, element = sch.split(column, [None, _VECTOR])
    sch.vectorize(element)
    step, warp, lane_y, lane_x = sch.split(
        sch.fuse(row, chunk), [None, s.warps, _LANES_Y, _LANES_X]
    )
    sch.bind(warp, "threadIdx.z")
    sch.bind(lane_y, "threadIdx.y")
    sch.bind(lane_x, "threadIdx.x")
    return step


def _sample_divisor(sch: Any, loop: Any, limit: int) -> Any:
    """One of the largest divisors of a loop's extent up to ``limit``."""
    extent = int(sch.get(loop).extent)
    divisors = [each for each in range(1, limit + 1) if extent % each == 0][-_CHOICES:]
    return sch.sample_categorical(divisors, [1 / len(divisors)] * len(divisors))


def _split_rows(sch: Any, row: Any, s: Structure) -> tuple[tuple[Any, Any], Any]:
    """Rows of a tile as the threads they are spread over and those of one thread."""
    warp, own, lane = sch.split(row, [None, s.rows, _LANES_Y])
    sch.bind(warp, "threadIdx.z")
    sch.bind(lane, "threadIdx.y")
    return (warp, lane), own


def _split_columns(sch: Any, column: Any) -> tuple[Any, Any, Any]:
    """Columns of the scores as (group, lane, pair)."""
    group, lane, pair = sch.split(column, [None, _LANES_X, _PAIR])
    sch.bind(lane, "threadIdx.x")
    return group, lane, pair


def _unroll(sch: Any, *loops: Any) -> None:
    for loop in loops:
        sch.unroll(loop)


def _scores(sch: Any, s: Structure) -> None:
    """Query times key: a register tile a thread, read as vectors along ``head_dim``."""
    block = sch.get_sblock("dot")
    row, column, reduction = sch.get_loops(block)[-3:]
    outer, *steps = _split_reduction(sch, reduction)
    if s.exchange:
        own, *columns = _spread(sch, row, column, s, 1, (outer, *steps))
    else:
        threads, own = _split_rows(sch, row, s)
        group, lane, pair = _split_columns(sch, column)
        sch.reorder(*threads, lane, outer, *steps, own, group, pair)
        columns = (group, pair)
    _unroll(sch, *steps, own, *columns)
    sch.decompose_reduction(block, outer)
    if s.exchange:
        row, column = sch.get_loops(sch.get_sblock("dot_local"))[-2:]
        _unroll(sch, *_spread(sch, row, column, s, 1))


def _values(sch: Any, s: Structure) -> None:
    """Weight times value: a register tile a thread, read as vectors along either side."""
    block = sch.get_sblock("acc")
    tile_loop, row, column, reduction = sch.get_loops(block)
    outer, *steps = _split_reduction(sch, reduction)
    own, group, element = _spread(sch, row, column, s, _VECTOR, (outer, *steps))
    _unroll(sch, *steps, own, group, element)
    sch.decompose_reduction(block, tile_loop)


def _output(sch: Any, s: Structure) -> None:
    """Write the output from the threads that hold it, a vector at once."""
    row, column = sch.get_loops(sch.get_sblock("output"))[-2:]
    own, group, element = _spread(sch, row, column, s, _VECTOR)
    _unroll(sch, own, group)
    sch.vectorize(element)


def _split_reduction(sch: Any, reduction: Any) -> Any:
    """A reduction as a loop, vectors that are unrolled, and the elements of a vector."""
    vector, element = sch.split(reduction, [None, _VECTOR])
    unrolled = _sample_divisor(sch, vector, _MAX_REDUCTION_VECTORS)
    return (*sch.split(vector, [None, unrolled]), element)


def _spread(
    sch: Any, row: Any, column: Any, s: Structure, width: int, between: tuple[Any, ...] = ()
) -> tuple[Any, Any, Any]:
    """Spread [rows, columns] so that both operands are read fast; returns a thread's own loops.

    Shared memory serves a vector to two quarters of a warp at once where all neighbours, or all
    next neighbours, ask for the same. So the lowest bit of a lane tells rows apart and the bit
    above it columns. Half a warp reads columns that lie side by side, and every bank once.
    """
    lanes = _column_lanes(s.rows, int(sch.get(column).extent), width)
    warp, own, row_y, row_x = sch.split(row, [s.warps, None, _WARP // lanes // 2, 2])
    group, column_y, column_x, element = sch.split(column, [None, lanes // 2, 2, width])
    sch.reorder(warp, row_y, column_y, column_x, row_x, *between, own, group, element)
    sch.bind(warp, "threadIdx.z")
    sch.bind(sch.fuse(row_y, column_y), "threadIdx.y")
    sch.bind(sch.fuse(column_x, row_x), "threadIdx.x")
    return own, group, element


def _column_lanes(rows: int, columns: int, width: int) -> int:
    """Threads to a row for which a thread's tile reads the fewest rows and columns.

    Parameters
    ----------
    rows : int
        Of a thread's tile where ``_LANES_X`` threads share a row.
    columns : int
        Of the whole tile, of which a thread holds ``width`` side by side.

    Examples
    --------
    >>> [_column_lanes(4, columns, 4) for columns in (32, 64, 80, 128, 256)]
    [4, 8, 4, 8, 16]
    """
    fitting = [lanes for lanes in (4, 8, 16) if columns % (lanes * width) == 0]
    return min(fitting, key=lambda lanes: rows * lanes // _LANES_X + columns // lanes)


def _elementwise(sch: Any, name: str, s: Structure) -> None:
    """Spread a step over [rows, columns]."""
    row, column = sch.get_loops(sch.get_sblock(name))[-2:]
    threads, own = _split_rows(sch, row, s)
    group, lane, pair = _split_columns(sch, column)
    sch.reorder(*threads, lane, own, group, pair)
    _unroll(sch, own, group)
    (sch.unroll if name == "weights" else sch.vectorize)(pair)


def _row_maximum(sch: Any, s: Structure) -> None:
    """Each lane its own columns, then across the lanes."""
    row, column = sch.get_loops(sch.get_sblock("tile_max"))[-2:]
    threads, own = _split_rows(sch, row, s)
    group, lane, pair = _split_columns(sch, column)
    # TVM's reduction across threads loses its buffer under an unrolled loop; NVCC unrolls this one.
    sch.reorder(*threads, own, lane, group, pair)
    _unroll(sch, group, pair)


def _lanes(sch: Any, name: str, s: Structure) -> None:
    """Spread a step over [rows, lanes]."""
    row, lane = sch.get_loops(sch.get_sblock(name))[-2:]
    threads, own = _split_rows(sch, row, s)
    sch.reorder(*threads, lane, own)
    sch.bind(lane, "threadIdx.x")
    sch.unroll(own)


def _lane_sum(sch: Any, s: Structure) -> None:
    """Each lane sums the weights of its own columns."""
    block = sch.get_sblock("tile_sum")
    row, lane, column = sch.get_loops(block)[-3:]
    threads, own = _split_rows(sch, row, s)
    sch.reorder(*threads, lane, own, column)
    sch.bind(lane, "threadIdx.x")
    _unroll(sch, own, column)
    sch.decompose_reduction(block, column)


def _whole_sum(sch: Any, s: Structure) -> None:
    """Add the lanes up."""
    row, lane = sch.get_loops(sch.get_sblock("whole_sum"))[-2:]
    threads, own = _split_rows(sch, row, s)
    sch.reorder(*threads, own, lane)
    sch.bind(lane, "threadIdx.x")


def _rows(sch: Any, name: str, s: Structure) -> None:
    """Spread a step over rows; the lanes of a row all do the same."""
    threads, own = _split_rows(sch, sch.get_loops(sch.get_sblock(name))[-1], s)
    sch.reorder(*threads, own)
    sch.unroll(own)
