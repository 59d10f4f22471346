"""What the tensor-core spaces share: threads, register fragments and the pipeline of a kv tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...workloads.pipelined import PipelinedTiles
from ..intrinsics import (
    CHUNK,
    FRAGMENT,
    SHARED,
    WARP_ROWS,
    Product,
    acc_intrin,
    copy_intrin,
    dot_intrin,
    panel_width,
)
from ..pipeline import ORDER, STAGES

# The steps of a kv tile, in the order of the description.
_STEPS = (
    "k_rows", "v_rows", "dot", "scores", "tile_max", "max_before", "row_max", "rescale",
    "weights", "tile_sum", "row_sum", "probs", "acc",
)  # fmt: skip
_LOADS = ("k_rows", "v_rows")

#: Lanes of a row of threads, rows of threads of a warp.
_LANES_X, _LANES_Y = 4, 8


@dataclass(frozen=True)
class Structure:
    """What decides the structure of a tensor-core schedule."""

    unit: str
    q_tile: int
    kv_tile: int
    head_dim: int
    dtype: str
    shared_query: bool = False

    @property
    def warps(self) -> int:
        """Warps of a thread block."""
        return self.q_tile // WARP_ROWS

    @property
    def product(self) -> Product:
        """The tensor-core instructions."""
        return Product(self.unit, self.dtype)

    @property
    def tiles(self) -> PipelinedTiles:
        """Parameters of the description."""
        return PipelinedTiles(self.q_tile, self.kv_tile, self.dtype)


def schedule(sch: Any, s: Structure) -> None:
    """Schedule the pipelined description for tensor cores.

    Parameters
    ----------
    sch : tvm.s_tir.Schedule
        Of an unscheduled :func:`~prefilltune.workloads.pipelined.pipelined_attention`; scheduled in
        place.
    """
    batch, head, tile = sch.get_loops(sch.get_sblock("attention"))
    for loop, block in ((tile, "blockIdx.x"), (head, "blockIdx.y"), (batch, "blockIdx.z")):
        sch.bind(loop, block)
    for name in _LOADS:
        _copy(sch, name, s)
    if s.shared_query:
        _copy(sch, "q_rows", s)
    fragments = ("dot", "probs", "acc", "rescale") + (() if s.shared_query else ("q_rows",))
    for name in fragments:
        sch.set_scope(sch.get_sblock(name), 0, FRAGMENT)
    for name in ("scores", "weights", "tile_max", "tile_sum", "max_before", "row_max", "row_sum",
                 "whole_sum", "final_sum", "inv_sum"):  # fmt: skip
        sch.set_scope(sch.get_sblock(name), 0, "local")
    for name in ("probs", "output") + (() if s.shared_query else ("q_rows",)):
        _fragment(sch, name, vectorize=True)
    for name in ("weights", "rescale"):
        _fragment(sch, name, vectorize=False)
    _row_maximum(sch)
    for name in ("scores", "tile_sum", "row_sum", "whole_sum"):
        _lanes(sch, name)
    for name in ("max_before", "row_max", "final_sum", "inv_sum", "lse"):
        _rows(sch, name)
    _products(sch, s)
    for name in ("row_max", "row_sum"):
        block = sch.get_sblock(name)
        sch.decompose_reduction(block, sch.get_loops(block)[0])
    _pipeline(sch)


def _copy(sch: Any, name: str, s: Structure) -> None:
    """Copy a tile to shared memory, 16 bytes a thread, neighbouring threads along a row."""
    block = sch.get_sblock(name)
    sch.set_scope(block, 0, SHARED)
    width = panel_width(s.head_dim)
    if name == "q_rows":
        sch.transform_layout(block, ("write", 0), lambda r, c: [c // width, r, c % width])
    else:
        sch.transform_layout(block, ("write", 0), lambda v, r, c: [v, c // width, r, c % width])
    row, column = sch.get_loops(block)[-2:]
    chunk, element = sch.split(column, [None, CHUNK])
    sch.tensorize(element, copy_intrin(s.dtype, s.head_dim))
    step, warp, lane_y, lane_x = sch.split(
        sch.fuse(row, chunk), [None, s.warps, _LANES_Y, _LANES_X]
    )
    _bind(sch, warp, lane_y, lane_x)
    sch.unroll(step)


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
        init = sch.decompose_reduction(block, inner[0])
        del init


def _rows(sch: Any, name: str) -> None:
    """Spread a step over rows; the lanes of a row all do the same."""
    warp, half, lane_y = _split_rows(sch, sch.get_loops(sch.get_sblock(name))[-1])
    sch.reorder(warp, lane_y, half)
    _bind(sch, warp, lane_y)
    sch.unroll(half)


def _products(sch: Any, s: Structure) -> None:
    """Tensorize both products; what clears their results is spread as a fragment is."""
    q_tile = s.q_tile if s.shared_query else None
    dot, acc = sch.get_sblock("dot"), sch.get_sblock("acc")
    names = (
        dot_intrin(s.product, s.kv_tile, s.head_dim, q_tile),
        acc_intrin(s.product, s.kv_tile, s.head_dim),
    )
    for block, name in zip((dot, acc), names, strict=True):
        warp, row = sch.split(sch.get_loops(block)[-3], [None, WARP_ROWS])
        sch.bind(warp, "threadIdx.z")
        outermost = row if block is dot else sch.get_loops(acc)[0]
        init = sch.decompose_reduction(block, outermost)
        sch.tensorize(row, name)
        row, column = sch.get_loops(init)[-2:]
        half, lane_y = sch.split(row, [2, _LANES_Y])
        fragment, lane_x, pair = _split_columns(sch, column)
        sch.reorder(lane_y, lane_x, fragment, half, pair)
        sch.bind(lane_y, "threadIdx.y")
        sch.bind(lane_x, "threadIdx.x")
        for loop in (fragment, half, pair):
            sch.unroll(loop)


def _pipeline(sch: Any) -> None:
    """Load the next tile behind the barrier that the score product starts with."""
    loop = sch.get_loops(sch.get_sblock("k_rows_o"))[0]
    order = ["dot", *_LOADS, *(name for name in _STEPS if name not in ("dot", *_LOADS))]
    sch.annotate(loop, STAGES, [0 if name in _LOADS else 1 for name in _STEPS])
    sch.annotate(loop, ORDER, [_STEPS.index(name) for name in order])
