"""CPU kernels fused over a q tile: one pass over the keys, everything else in cache or registers.

The first GEMM keeps query rows in the vector lanes, so that the softmax runs over whole vectors
without a step across lanes, and its result is the operand that the second GEMM broadcasts. The
query tile is transposed once; keys and values are read as they lie, or copied tile by tile
(variant ``packed``), which pays where rows lie so far apart that they evict one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, ClassVar

from ...workloads import PackedShape, PrefillShape, PrefillSpec, SymbolicShape, Tiles
from ..derivation import online_attention
from ..target import ResolvedTarget, vector_lanes
from .space import DesignSpace, Variant, one_schedule, reaches

_KV_TILES = (64, 128, 32, 256)
_LANE_GROUPS = (2, 4, 1)
_MIN_KV_TILE = 32


class LlvmFused(DesignSpace):
    """The online description with tile sizes as variants and register tiles sampled."""

    name: ClassVar[str] = "llvm_fused"
    kinds: ClassVar[frozenset[str]] = frozenset({"llvm"})

    def variants(
        self, spec: PrefillSpec, shape: PrefillShape, target: ResolvedTarget
    ) -> Sequence[Variant]:
        lanes = vector_lanes(target.target)
        sizes = [lanes * groups for groups in _LANE_GROUPS]
        q_tiles = [size for size in sizes if reaches(size, shape.qo_len, lanes)]
        kv_tiles = [size for size in _KV_TILES if reaches(size, shape.num_kv, _MIN_KV_TILE)]
        # A copy converts other dtypes to float32 once; without it, each use would do so again.
        packed = (False, True) if spec.dtype == "float32" else (True,)
        return [
            {"q_tile": q_tile, "kv_tile": kv_tile, "packed": pack}
            for pack, kv_tile, q_tile in product(packed, kv_tiles, q_tiles)
        ]

    def describe(
        self,
        spec: PrefillSpec,
        shape: PrefillShape | SymbolicShape | PackedShape,
        variant: Variant,
    ) -> Any:
        tiles = Tiles(int(variant["q_tile"]), int(variant["kv_tile"]))
        return online_attention(spec, shape, tiles)

    def facts(self, spec: PrefillSpec, variant: Variant) -> dict[str, str]:
        copied = (
            "copied into rows that lie together" if variant["packed"] else "read where they are"
        )
        return {
            "tiles": f"{variant['q_tile']} query rows by {variant['kv_tile']} keys",
            "instruction": "the CPU's vectors, float32",
            "keys and values": copied,
        }

    def generator(self, spec: PrefillSpec, variant: Variant) -> Any:
        from tvm.s_tir.meta_schedule.mutator import MutateTileSize

        packed = bool(variant["packed"])
        return one_schedule(lambda sch: schedule(sch, packed=packed), {MutateTileSize(): 1.0})


def schedule(sch: Any, *, packed: bool) -> None:
    """Schedule the online description for a CPU.

    Parameters
    ----------
    sch : tvm.s_tir.Schedule
        Of an :func:`~prefilltune.tuning.derivation.online_attention`; scheduled in place.
    packed : bool
        Whether key and value tiles are copied before they are used.
    """
    sch.parallel(sch.fuse(*sch.get_loops(sch.get_sblock("attention"))))
    _rows_into_lanes(sch)
    _load_tiles(sch, packed=packed)
    dot_reduction = _tile_score_gemm(sch)
    reductions = _vectorize_softmax(sch)
    out_reduction = _tile_value_gemm(sch)
    for name in (
        "max_before",
        "row_max",
        "rescale",
        "row_sum",
        "final_sum",
        "inv_sum",
        "row_lse",
        "output",
    ):
        sch.vectorize(sch.get_loops(sch.get_sblock(name))[-1])
    # Last, because compute_at refuses reductions that are already decomposed.
    for block, loop in reductions:
        sch.vectorize(sch.get_loops(sch.decompose_reduction(block, loop))[-1])
    for name, loop in (("dot", dot_reduction), ("tile_out", out_reduction)):
        init_loops = sch.get_loops(sch.decompose_reduction(sch.get_sblock(name), loop))
        sch.unroll(init_loops[-2])
        sch.vectorize(init_loops[-1])


def _rows_into_lanes(sch: Any) -> None:
    """Lay every [q_tile, x] buffer of the first GEMM and the softmax out as [x, q_tile]."""
    for name in ("q_rows", "dot", "scores", "weights"):
        sch.transform_layout(sch.get_sblock(name), ("write", 0), lambda row, x: (x, row))
    sch.compute_inline(sch.get_sblock("probs"))


def _load_tiles(sch: Any, *, packed: bool) -> None:
    row, element = sch.get_loops(sch.get_sblock("q_rows"))[-2:]
    sch.reorder(element, row)
    for name in ("k_rows", "v_rows"):
        block = sch.get_sblock(name)
        if packed:
            sch.vectorize(sch.get_loops(block)[-1])
        else:
            sch.compute_inline(block)


def _tile_score_gemm(sch: Any) -> Any:
    """Register-tile query times key; returns the loop of the reduction to decompose at."""
    row, column = sch.get_loops(sch.get_sblock("scores"))[-2:]
    tile = sch.sample_perfect_tile(column, n=2, max_innermost_factor=16)
    column_tile, column_in_tile = sch.split(column, factors=tile)
    sch.reorder(column_tile, column_in_tile, row)
    dot = sch.get_sblock("dot")
    sch.compute_at(dot, column_tile, preserve_unit_loops=True)
    sch.set_scope(dot, 0, "local")
    dot_row, dot_column, reduction = sch.get_loops(dot)[-3:]
    steps = sch.sample_perfect_tile(reduction, n=2, max_innermost_factor=8)
    reduction_step, reduction_in_step = sch.split(reduction, factors=steps)
    sch.reorder(reduction_step, reduction_in_step, dot_column, dot_row)
    for loop in (reduction_in_step, dot_column, column_in_tile):
        sch.unroll(loop)
    for loop in (dot_row, row):
        sch.vectorize(loop)
    return reduction_step


def _vectorize_softmax(sch: Any) -> list[tuple[Any, Any]]:
    """Vectorise over rows; returns (sblock, loop) of the reductions to decompose."""
    reductions = []
    for name in ("tile_max", "weights", "tile_sum"):
        block = sch.get_sblock(name)
        row, column = sch.get_loops(block)[-2:]
        sch.reorder(column, row)
        sch.vectorize(row)
        if name != "weights":
            reductions.append((block, column))
    return reductions


def _tile_value_gemm(sch: Any) -> Any:
    """Register-tile weight times value; returns the loop of the reduction to decompose at."""
    row, element = sch.get_loops(sch.get_sblock("acc"))[-2:]
    row_tile, row_in_tile = sch.split(
        row, factors=sch.sample_perfect_tile(row, n=2, max_innermost_factor=8)
    )
    element_tile, element_in_tile = sch.split(
        element, factors=sch.sample_perfect_tile(element, n=2, max_innermost_factor=64)
    )
    sch.reorder(row_tile, element_tile, row_in_tile, element_in_tile)
    out = sch.get_sblock("tile_out")
    sch.compute_at(out, element_tile, preserve_unit_loops=True)
    sch.set_scope(out, 0, "local")
    out_row, out_element, reduction = sch.get_loops(out)[-3:]
    steps = sch.sample_perfect_tile(reduction, n=2, max_innermost_factor=4)
    reduction_step, reduction_in_step = sch.split(reduction, factors=steps)
    sch.reorder(reduction_step, reduction_in_step, out_row, out_element)
    for loop in (reduction_in_step, out_row, row_in_tile):
        sch.unroll(loop)
    for loop in (out_element, element_in_tile):
        sch.vectorize(loop)
    return reduction_step
