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

from ...workloads import PackedShape, PrefillShape, PrefillSpec, SymbolicShape
from ..derivation import FRAGMENT_COLUMNS, PipelinedTiles, pipelined_attention
from ..target import ResolvedTarget
from .row_threads import (
    LANES_X,
    LANES_Y,
    WARP,
    RowThreads,
    bind_blocks,
    bind_chunks,
    decompose_carried,
    unroll,
)
from .space import DesignSpace, Variant, one_schedule, reaches

#: float32 elements of one access to memory.
_VECTOR = 4

#: Columns of a tile that the lanes of a row share evenly.
_MULTIPLE = LANES_X * _VECTOR

#: Rows of a tile in shared memory are padded to an odd number of accesses: the same column of eight
#: rows then lies in all of the banks, each once.
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

# How far two loops may be unrolled: the vectors of a reduction, and the loads of a thread. Of the
# divisors up to there, so many of the largest are tried.
_MAX_REDUCTION_VECTORS, _MAX_LOADS, _CHOICES = 8, 16, 3


@dataclass(frozen=True)
class SimtStructure:
    """What decides the structure of a schedule on ordinary arithmetic.

    Parameters
    ----------
    rows : int
        Query rows that a thread computes.
    warps : int
        Warps of a thread block.
    kv_tile : int
        Rows of a key or value tile.
    head_dim : int
        Elements a head in memory.
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
        return self.warps * self.rows * LANES_Y

    @property
    def columns(self) -> int:
        """Columns of a tile: elements of a head, and zeros up to what threads share evenly."""
        return -(-self.head_dim // _MULTIPLE) * _MULTIPLE

    @property
    def tiles(self) -> PipelinedTiles:
        """Parameters of the description."""
        return PipelinedTiles(self.q_tile, self.kv_tile, "float32", ring=1, head_multiple=_MULTIPLE)

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block, at most; the weights take the place of the scores."""
        head_row, score_row = self.columns + _ROW_OFFSET, self.kv_tile + _ROW_OFFSET
        query_rows = self.q_tile * (head_row + score_row + FRAGMENT_COLUMNS + 1)
        return (query_rows + 2 * self.kv_tile * head_row) * _FLOAT_BYTES

    @property
    def registers(self) -> int:
        """About how many registers a thread needs."""
        return self.rows * (self.columns + self.kv_tile) // LANES_X + _OTHER_REGISTERS


class CudaSimt(DesignSpace):
    """The pipelined description without tensor cores: every dtype, every architecture."""

    name: ClassVar[str] = "cuda_simt"
    kinds: ClassVar[frozenset[str]] = frozenset({"cuda"})

    def variants(
        self, spec: PrefillSpec, shape: PrefillShape, target: ResolvedTarget
    ) -> Sequence[Variant]:
        limit = int(target.target.attrs["max_shared_memory_per_block"])
        structures = (
            SimtStructure(*sizes, spec.head_dim, exchange)
            for exchange, sizes in product((True, False), _SIZES)
        )
        return [
            {"rows": s.rows, "warps": s.warps, "kv_tile": s.kv_tile, "exchange": s.exchange}
            for s in structures
            if s.shared_bytes <= limit
            and s.registers <= _THREAD_REGISTERS
            and reaches(s.q_tile, shape.qo_len, _SMALLEST_TILE)
            and reaches(s.kv_tile, shape.num_kv, _SMALLEST_TILE)
        ]

    def describe(
        self,
        spec: PrefillSpec,
        shape: PrefillShape | SymbolicShape | PackedShape,
        variant: Variant,
    ) -> Any:
        return pipelined_attention(spec, shape, structure_of(spec, variant).tiles)

    def facts(self, spec: PrefillSpec, variant: Variant) -> dict[str, str]:
        s = structure_of(spec, variant)
        return {
            "tiles": f"{s.q_tile} query rows by {s.kv_tile} keys",
            "instruction": f"float32 multiply-add, rows a thread: {s.rows}",
            "threads of a block": f"{s.warps * WARP} ({s.warps} warps)",
            "scores": "through shared memory" if s.exchange else "in registers",
            "shared memory of a block": f"{s.shared_bytes / 1024:.0f} KiB at most",
            "registers of a thread": f"about {s.registers}, by the design space's own count",
        }

    def generator(self, spec: PrefillSpec, variant: Variant) -> Any:
        s = structure_of(spec, variant)
        return one_schedule(lambda sch: schedule(sch, s))


def structure_of(spec: PrefillSpec, variant: Variant) -> SimtStructure:
    """What a variant of this space says of the schedule."""
    rows, warps, kv_tile = (int(variant[name]) for name in ("rows", "warps", "kv_tile"))
    return SimtStructure(rows, warps, kv_tile, spec.head_dim, bool(variant["exchange"]))


def schedule(sch: Any, s: SimtStructure) -> None:
    """Schedule the pipelined description for threads that multiply and add.

    Parameters
    ----------
    sch : tvm.s_tir.Schedule
        Of an unscheduled :func:`~prefilltune.tuning.derivation.pipelined_attention`; scheduled in
        place.
    """
    threads = RowThreads(sch, s.rows, binds_at_once=True)
    bind_blocks(sch)
    _place(sch, s)
    _copies(sch, s)
    _scores(threads, s)
    _values(sch, s)
    _output(sch, s)
    for name in ("weights", "probs", "rescale", "rescale_shared.dyn"):
        _elementwise(threads, name)
    threads.row_maximum()
    for name in ("scores", "row_sum"):
        threads.lanes(name)
    threads.lane_sums()
    threads.whole_sum()
    for name in ("max_before", "row_max", "final_sum", "inv_sum", "inv_sum_shared.dyn", "lse"):
        threads.rows_alone(name)
    decompose_carried(sch)


def _place(sch: Any, s: SimtStructure) -> None:
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


def _copies(sch: Any, s: SimtStructure) -> None:
    """Copy tiles to shared memory, neighbouring threads along a row."""
    sch.unroll(_copy(sch, "q_rows", s))
    key, value = (_copy(sch, name, s) for name in ("k_rows", "v_rows"))
    loads = _sample_divisor(sch, key, _MAX_LOADS)
    for step in (key, value):
        _, unrolled = sch.split(step, [None, loads])
        sch.unroll(unrolled)


def _copy(sch: Any, name: str, s: SimtStructure) -> Any:
    """Bind a copy to threads; returns the loop over the accesses of one thread."""
    row, column = sch.get_loops(sch.get_sblock(name))[-2:]
    chunk, element = sch.split(column, [None, _VECTOR])
    (sch.vectorize if s.columns == s.head_dim else sch.unroll)(element)
    return bind_chunks(sch, row, chunk, s.warps)


def _sample_divisor(sch: Any, loop: Any, limit: int) -> Any:
    """One of the largest divisors of a loop's extent up to ``limit``."""
    extent = int(sch.get(loop).extent)
    divisors = [each for each in range(1, limit + 1) if extent % each == 0][-_CHOICES:]
    return sch.sample_categorical(divisors, [1 / len(divisors)] * len(divisors))


def _scores(threads: RowThreads, s: SimtStructure) -> None:
    """Query times key: a register tile a thread, read as vectors along ``head_dim``."""
    sch = threads.sch
    block = sch.get_sblock("dot")
    row, column, reduction = sch.get_loops(block)[-3:]
    outer, *steps = _split_reduction(sch, reduction)
    if s.exchange:
        own, *columns = _spread(sch, row, column, s, 1, (outer, *steps))
    else:
        warp, own, lane_y = threads.split_rows(row)
        group, lane_x, pair = threads.split_columns(column)
        sch.reorder(warp, lane_y, lane_x, outer, *steps, own, group, pair)
        columns = [group, pair]
    unroll(sch, *steps, own, *columns)
    sch.decompose_reduction(block, outer)
    if s.exchange:
        row, column = sch.get_loops(sch.get_sblock("dot_local"))[-2:]
        unroll(sch, *_spread(sch, row, column, s, 1))


def _values(sch: Any, s: SimtStructure) -> None:
    """Weight times value: a register tile a thread, read as vectors along either side."""
    block = sch.get_sblock("acc")
    tile_loop, row, column, reduction = sch.get_loops(block)
    outer, *steps = _split_reduction(sch, reduction)
    own, group, element = _spread(sch, row, column, s, _VECTOR, (outer, *steps))
    unroll(sch, *steps, own, group, element)
    sch.decompose_reduction(block, tile_loop)


def _output(sch: Any, s: SimtStructure) -> None:
    """Write the output from the threads that hold it, a vector at once."""
    row, column = sch.get_loops(sch.get_sblock("output"))[-2:]
    own, group, element = _spread(sch, row, column, s, _VECTOR)
    unroll(sch, own, group)
    (sch.vectorize if s.columns == s.head_dim else sch.unroll)(element)


def _split_reduction(sch: Any, reduction: Any) -> Any:
    """A reduction as a loop, vectors that are unrolled, and the elements of a vector."""
    vector, element = sch.split(reduction, [None, _VECTOR])
    unrolled = _sample_divisor(sch, vector, _MAX_REDUCTION_VECTORS)
    return (*sch.split(vector, [None, unrolled]), element)


def _spread(
    sch: Any, row: Any, column: Any, s: SimtStructure, width: int, between: tuple[Any, ...] = ()
) -> tuple[Any, Any, Any]:
    """Spread [rows, columns] so that both operands are read fast; returns a thread's own loops.

    Shared memory serves a vector to two quarters of a warp at once where all neighbours, or all
    next neighbours, ask for the same. So the lowest bit of a lane tells rows apart and the bit
    above it columns. Half a warp reads columns that lie side by side, and every bank once.
    """
    # Outputs have as many columns as a head has elements, and the tile that they are of some more.
    columns = -(-int(sch.get(column).extent) // _MULTIPLE) * _MULTIPLE
    lanes = _column_lanes(s.rows, columns, width)
    warp, own, row_y, row_x = sch.split(row, [s.warps, None, WARP // lanes // 2, 2])
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
        Of a thread's tile where ``LANES_X`` threads share a row.
    columns : int
        Of the whole tile, of which a thread holds ``width`` side by side.

    Examples
    --------
    >>> [_column_lanes(4, columns, 4) for columns in (32, 64, 80, 128, 256)]
    [4, 8, 4, 8, 16]
    """
    fitting = [lanes for lanes in (4, 8, 16) if columns % (lanes * width) == 0]
    return min(fitting, key=lambda lanes: rows * lanes // LANES_X + columns // lanes)


def _elementwise(threads: RowThreads, name: str) -> None:
    """Spread a step over [rows, columns]."""
    sch = threads.sch
    row, column = sch.get_loops(sch.get_sblock(name))[-2:]
    warp, own, lane_y = threads.split_rows(row)
    group, lane_x, pair = threads.split_columns(column)
    sch.reorder(warp, lane_y, lane_x, own, group, pair)
    unroll(sch, own, group)
    (sch.unroll if name == "weights" else sch.vectorize)(pair)
