"""What the tensor-core spaces share: threads, register fragments and the pipeline of a kv tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...workloads.online import Tiles
from ..pipeline import ORDER, STAGES
from ..intrinsics import CHUNK, FRAGMENT, SHARED, WARP_ROWS, acc_intrin, copy_intrin, dot_intrin

# The steps of a kv tile, in the order of the description.
_STEPS = (
    "k_rows", "v_rows", "dot", "scores", "tile_max", "max_before", "row_max", "rescale",
    "weights", "tile_sum", "row_sum", "probs", "acc",
)  # fmt: skip


@dataclass(frozen=True)
class Structure:
    """What decides the structure of a tensor-core schedule."""

    unit: str
    q_tile: int
    kv_tile: int
    head_dim: int
    dtype: str

    @property
    def warps(self) -> int:
        return self.q_tile // WARP_ROWS


def schedule(sch: Any, s: Structure) -> None:
    batch, head, tile = sch.get_loops(sch.get_sblock("attention"))
    sch.bind(tile, "blockIdx.x")
    sch.bind(head, "blockIdx.y")
    sch.bind(batch, "blockIdx.z")
    for name in ("k_rows", "v_rows"):
        _copy(sch, name, s)
    for name in ("q_rows", "dot", "probs", "acc", "rescale"):
        sch.set_scope(sch.get_sblock(name), 0, FRAGMENT)
    for name in ("scores", "weights", "tile_max", "tile_sum", "max_before", "row_max", "row_sum",
                 "final_sum", "inv_sum"):  # fmt: skip
        sch.set_scope(sch.get_sblock(name), 0, "local")
    _mask(sch)
    for name in ("q_rows", "weights", "probs", "rescale", "output"):
        _elementwise(sch, name)
    for name in ("tile_max", "tile_sum"):
        _row_reduction(sch, name)
    for name in ("max_before", "row_max", "row_sum", "final_sum", "inv_sum", "lse"):
        _row_state(sch, name)
    _products(sch, s)
    for name in ("row_max", "row_sum"):
        block = sch.get_sblock(name)
        sch.decompose_reduction(block, sch.get_loops(block)[0])
    _pipeline(sch, s)


def _copy(sch: Any, name: str, s: Structure) -> None:
    block = sch.get_sblock(name)
    sch.set_scope(block, 0, SHARED)
    sch.transform_layout(block, ("write", 0), lambda v, r, c: [v, c // 8, r // 8, r % 8, c % 8])
    row, column = sch.get_loops(block)[-2:]
    chunk, element = sch.split(column, [None, CHUNK])
    sch.tensorize(element, copy_intrin(s.dtype))
    cores, row_high, row_low = sch.split(row, [None, 2, 4])
    sch.reorder(cores, chunk, row_high, row_low)
    fused = sch.fuse(cores, chunk)
    step, warp, chunk4 = sch.split(fused, [None, s.warps, 4])
    lane_y = sch.fuse(chunk4, row_high)
    sch.bind(warp, "threadIdx.z")
    sch.bind(lane_y, "threadIdx.y")
    sch.bind(row_low, "threadIdx.x")
    sch.unroll(step)


def _split_rows(sch: Any, row: Any) -> tuple[Any, Any, Any]:
    return sch.split(row, [None, 2, 8])


def _elementwise(sch: Any, name: str) -> None:
    block = sch.get_sblock(name)
    row, column = sch.get_loops(block)[-2:]
    warp, half, lane_y = _split_rows(sch, row)
    tile, lane_x, pair = sch.split(column, [None, 4, 2])
    sch.reorder(warp, lane_y, lane_x, tile, half, pair)
    sch.bind(warp, "threadIdx.z")
    sch.bind(lane_y, "threadIdx.y")
    sch.bind(lane_x, "threadIdx.x")
    sch.unroll(tile)
    sch.unroll(half)
    if name in ("q_rows", "probs", "output"):
        sch.vectorize(pair)
    else:
        sch.unroll(pair)


def _mask(sch: Any) -> None:
    row, lane_x = sch.get_loops(sch.get_sblock("scores"))[-2:]
    warp, half, lane_y = _split_rows(sch, row)
    sch.reorder(warp, lane_y, lane_x, half)
    sch.bind(warp, "threadIdx.z")
    sch.bind(lane_y, "threadIdx.y")
    sch.bind(lane_x, "threadIdx.x")
    sch.unroll(half)


def _row_reduction(sch: Any, name: str) -> None:
    block = sch.get_sblock(name)
    row, column = sch.get_loops(block)[-2:]
    warp, half, lane_y = _split_rows(sch, row)
    tile, lane_x, pair = sch.split(column, [None, 4, 2])
    sch.reorder(warp, lane_y, half, lane_x, tile, pair)
    sch.bind(warp, "threadIdx.z")
    sch.bind(lane_y, "threadIdx.y")
    sch.bind(lane_x, "threadIdx.x")
    sch.unroll(tile)
    sch.unroll(pair)


def _row_state(sch: Any, name: str) -> None:
    block = sch.get_sblock(name)
    warp, half, lane_y = _split_rows(sch, sch.get_loops(block)[-1])
    sch.reorder(warp, lane_y, half)
    sch.bind(warp, "threadIdx.z")
    sch.bind(lane_y, "threadIdx.y")
    sch.unroll(half)


def _products(sch: Any, s: Structure) -> None:
    """Tensorize both products; their results are cleared elsewhere or need no clearing."""
    dot, acc = sch.get_sblock("dot"), sch.get_sblock("acc")
    names = (
        dot_intrin(s.unit, s.kv_tile, s.head_dim, s.dtype, 0),
        acc_intrin(s.unit, s.kv_tile, s.head_dim, s.dtype),
    )
    for block, name in zip((dot, acc), names, strict=True):
        warp, row = sch.split(sch.get_loops(block)[-3], [None, WARP_ROWS])
        sch.bind(warp, "threadIdx.z")
        outermost = row if block is dot else sch.get_loops(acc)[0]
        init = sch.decompose_reduction(block, outermost)
        sch.tensorize(row, name)
        row, column = sch.get_loops(init)[-2:]
        half, lane_y = sch.split(row, [2, 8])
        tile, lane_x, pair = sch.split(column, [None, 4, 2])
        sch.reorder(lane_y, lane_x, tile, half, pair)
        sch.bind(lane_y, "threadIdx.y")
        sch.bind(lane_x, "threadIdx.x")
        for loop in (tile, half, pair):
            sch.unroll(loop)


def _pipeline(sch: Any, s: Structure) -> None:
    """Load the next tile behind the barrier that the score product starts with."""
    loop = sch.get_loops(sch.get_sblock("k_rows_o"))[0]
    loads, dot = ("k_rows", "v_rows"), ("dot",)
    order = [*dot, *loads, *(name for name in _STEPS if name not in dot + loads)]
    sch.annotate(loop, STAGES, [0 if name in loads else 1 for name in _STEPS])
    sch.annotate(loop, ORDER, [_STEPS.index(name) for name in order])


def tiles(s: Structure) -> Tiles:
    return Tiles(s.q_tile, s.kv_tile, s.dtype)
