"""Rows of a tile on the threads of a block: what the schedules of all CUDA kernels share.

Threads of a block are (4, 8, warps). The four along threadIdx.x share rows, of which each holds two
columns in every eight; the rows of one thread are eight apart, within those of its warp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: Lanes of a row of threads, rows of threads of a warp.
LANES_X, LANES_Y = 4, 8
WARP = LANES_X * LANES_Y

#: Columns that a thread holds side by side.
PAIR = 2


def bind_blocks(sch: Any) -> None:
    """A thread block for each tile of queries and head, and for each sequence if it has a loop."""
    loops = reversed(sch.get_loops(sch.get_sblock("attention")))
    for loop, block in zip(loops, ("blockIdx.x", "blockIdx.y", "blockIdx.z"), strict=False):
        sch.bind(loop, block)


def bind_chunks(sch: Any, row: Any, chunk: Any, warps: int) -> Any:
    """Neighbouring threads take neighbouring chunks along a row; returns the loop of a thread."""
    own, warp, lane_y, lane_x = sch.split(sch.fuse(row, chunk), [None, warps, LANES_Y, LANES_X])
    bind(sch, warp, lane_y, lane_x)
    return own


def bind(sch: Any, warp: Any = None, lane_y: Any = None, lane_x: Any = None) -> None:
    """Bind those loops that are given to the threads of a block."""
    for loop, thread in ((warp, "threadIdx.z"), (lane_y, "threadIdx.y"), (lane_x, "threadIdx.x")):
        if loop is not None:
            sch.bind(loop, thread)


def unroll(sch: Any, *loops: Any) -> None:
    """Unroll each of the loops."""
    for loop in loops:
        sch.unroll(loop)


def decompose_carried(sch: Any) -> None:
    """Start what is carried over all tiles, a row's maximum and sum, before the first of them."""
    for name in ("row_max", "row_sum"):
        block = sch.get_sblock(name)
        sch.decompose_reduction(block, sch.get_loops(block)[0])


@dataclass(frozen=True)
class RowThreads:
    """Spreads steps of a tile of queries so that a thread computes the same rows in each of them.

    Parameters
    ----------
    sch : tvm.s_tir.Schedule
        Scheduled in place.
    rows : int
        That a thread computes.
    binds_at_once : bool
        Whether a loop is bound to threads where it is split off, rather than where all loops of
        its step are in order. The kernels are the same, but not the traces: each space stays with
        the order of instructions by which logs and records know its candidates.
    """

    sch: Any
    rows: int
    binds_at_once: bool

    def split_rows(self, row: Any) -> tuple[Any, Any, Any]:
        """Rows of a tile as (warp, those of a thread, lane)."""
        warp, own, lane_y = self.sch.split(row, [None, self.rows, LANES_Y])
        if self.binds_at_once:
            bind(self.sch, warp, lane_y)
        return warp, own, lane_y

    def split_columns(self, column: Any) -> tuple[Any, Any, Any]:
        """Columns of a tile as (group, lane, pair)."""
        group, lane_x, pair = self.sch.split(column, [None, LANES_X, PAIR])
        if self.binds_at_once:
            bind(self.sch, lane_x=lane_x)
        return group, lane_x, pair

    def bind_split(self, warp: Any, lane_y: Any, lane_x: Any = None) -> None:
        """Bind what :meth:`split_rows` and :meth:`split_columns` gave, unless they did so."""
        if not self.binds_at_once:
            bind(self.sch, warp, lane_y, lane_x)

    def rows_alone(self, name: str) -> None:
        """Spread a step over [rows]; the lanes of a row all do the same."""
        warp, own, lane_y = self.split_rows(self._loops(name)[-1])
        self.sch.reorder(warp, lane_y, own)
        self.bind_split(warp, lane_y)
        self.sch.unroll(own)

    def lanes(self, name: str) -> None:
        """Spread a step over [rows, lanes]."""
        self._spread_lanes(*self._loops(name)[-2:])

    def lane_sums(self) -> None:
        """Each lane sums up the weights of its own columns."""
        block = self.sch.get_sblock("tile_sum")
        row, lane_x, column = self.sch.get_loops(block)[-3:]
        self._spread_lanes(row, lane_x, column)
        self.sch.decompose_reduction(block, column)

    def whole_sum(self) -> None:
        """Add the lanes of a row up."""
        row, lane_x = self._loops("whole_sum")[-2:]
        warp, own, lane_y = self.split_rows(row)
        self.sch.reorder(warp, lane_y, own, lane_x)  # not unrolled, as in row_maximum
        self.bind_split(warp, lane_y)
        bind(self.sch, lane_x=lane_x)

    def row_maximum(self) -> None:
        """Each lane its own columns, then across the lanes."""
        row, column = self._loops("tile_max")[-2:]
        warp, own, lane_y = self.split_rows(row)
        group, lane_x, pair = self.split_columns(column)
        # Under an unrolled loop, TVM's reduction across threads loses its buffer. So a thread's
        # rows stay a loop here, which the CUDA compiler unrolls.
        self.sch.reorder(warp, lane_y, own, lane_x, group, pair)
        self.bind_split(warp, lane_y, lane_x)
        unroll(self.sch, group, pair)

    def _spread_lanes(self, row: Any, lane_x: Any, *columns: Any) -> None:
        warp, own, lane_y = self.split_rows(row)
        self.sch.reorder(warp, lane_y, lane_x, own, *columns)
        if self.binds_at_once:
            bind(self.sch, lane_x=lane_x)
            unroll(self.sch, own, *columns)
        else:
            unroll(self.sch, own)
            bind(self.sch, warp, lane_y, lane_x)
            unroll(self.sch, *columns)

    def _loops(self, name: str) -> Any:
        return self.sch.get_loops(self.sch.get_sblock(name))
