"""CPU kernels fused over a q tile: one pass over the keys, everything else in cache or registers.

The first GEMM keeps query rows in the vector lanes, so that the softmax runs over whole vectors
without a step across lanes, and its result is the operand that the second GEMM broadcasts. The
query tile is transposed once, in registers; keys and values are read as they lie, or copied tile by
tile (variant ``packed``: values, or both), which pays where rows lie so far apart that they evict
one another, and which converts dtypes of 16 bits to float32.

Both GEMMs work on register tiles of a few vectors by a few broadcast elements, as large as the
registers of the target hold: with 16 of 8 lanes, 16 rows by 6 keys, then 6 rows by 16 elements.
What such tiles leave of 64 keys is a tile of its own. All loops over keys end with those that there
are, whether a sequence or a mask ends within the tile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar, Literal, cast

from ...workloads import PackedShape, PrefillShape, PrefillSpec, SymbolicShape, Tiles
from ..derivation import online_attention
from ..pipeline import PEEL, TILES, TRANSPOSE, TRIM
from ..target import ResolvedTarget, vector_lanes, vector_registers
from .space import DesignSpace, Variant, heads_of_a_tile, one_schedule, reaches, reaching

#: Neither keys nor values, values, or both.
Packed = Literal[False, "values", True]

_KV_TILES = (64, 128, 32, 256)
# Long sequences take 64, short and causal ones 16: the first ones that a search tries. Of more rows
# keys and values are copied less often, where rows lie far apart the larger part of what is not
# multiplied; but more rows lie behind the end of a sequence, or before a mask's. Rows of a group's
# heads side by side have both, few positions and many rows.
_Q_TILES = (64, 16, 32, 128, 256, 8, 48)
# Register tiles, by registers: how many vectors wide, the best first, and how many broadcast
# elements high in the first and in the second GEMM, the best first. With as many accumulators as
# there is room for, loads are fewest; fewer may leave less over.
_REGISTER_TILES = {
    16: {2: ((6, 4), (6, 4)), 3: ((4, 2), (4, 2)), 1: ((8, 4), (8, 4))},
    32: {4: ((4, 6), (6, 4)), 2: ((8, 12), (8, 12)), 3: ((8, 4), (8, 4)), 1: ((16, 8), (16, 8))},
}
# Of how many elements the first GEMM's code is written out.
_MULTIPLIED = (8, 4)
# Of how many keys the second GEMM's is, by registers. With AVX-512, LLVM works out where four keys
# lie in one vector, which keeps them waiting: 14 % of a kernel's time.
_SUMMED = {16: (4, 2), 32: (2, 4)}
# Which tiles are copied (variant ``packed``), by registers: values are read again for every few
# rows, keys once for all rows of a tile. With AVX2 that of values alone is faster than none, with
# AVX-512 it is slower.
_PACKED: dict[int, tuple[Packed, ...]] = {16: ("values", True), 32: (False, True)}
_COPIED: dict[Packed, tuple[str, ...]] = {
    False: (),
    "values": ("v_rows",),
    True: ("k_rows", "v_rows"),
}
# Tiles of keys end at a multiple.
_TOGETHER = 4
# Elements of a cache line, and of rows that are eight lines long or more: a column of such a tile
# would lie in an eighth of the first cache's sets, and evict itself.
_LINE, _LONG_ROW = 16, 128


@dataclass(frozen=True)
class Vectors:
    """The vector registers of a CPU.

    Parameters
    ----------
    registers : int
        How many there are.
    lanes : int
        float32 elements of one.
    """

    registers: int = 16
    lanes: int = 8

    def width(self, extent: int) -> int:
        """How many vectors wide a register tile is that divides ``extent`` elements."""
        vectors = extent // math.gcd(extent, self.lanes)
        return next(each for each in _REGISTER_TILES[self.registers] if vectors % each == 0)

    def heights(self, width: int, product: int) -> tuple[int, ...]:
        """How many broadcast elements high a tile of that width may be in a GEMM, 0 or 1."""
        return _REGISTER_TILES[self.registers][width][product]

    @property
    def summed(self) -> tuple[int, ...]:
        """Of how many keys the second GEMM's code may be written out."""
        return _SUMMED[self.registers]

    @classmethod
    def of(cls, variant: Variant) -> Vectors | None:
        """Those that a variant is for; none where it is of a version that left them to LLVM."""
        if "registers" not in variant:
            return None
        return cls(int(variant["registers"]), int(variant["lanes"]))


#: What most CPUs have.
AVX2 = Vectors()


class LlvmFused(DesignSpace):
    """The online description with tile sizes as variants and register tiles sampled."""

    name: ClassVar[str] = "llvm_fused"
    kinds: ClassVar[frozenset[str]] = frozenset({"llvm"})
    any_target: ClassVar[bool] = True

    def variants(
        self, spec: PrefillSpec, shape: PrefillShape, target: ResolvedTarget
    ) -> Sequence[Variant]:
        lanes, registers = vector_lanes(target.target), vector_registers(target.target)
        sizes = [size for size in _Q_TILES if size % lanes == 0]
        kv_tiles = reaching(_KV_TILES, shape.num_kv)
        packed = (True,) if _is_converted(spec) else _PACKED[registers]
        q_tiles = [
            (size, heads)
            for size in sizes
            for heads in dict.fromkeys((heads_of_a_tile(spec, size), 1))
            if reaches(size, heads * shape.qo_len, min(sizes))
        ]
        return [
            {
                "q_tile": q_tile,
                "kv_tile": kv_tile,
                "packed": pack,
                "registers": registers,
                "lanes": lanes,
                **({"heads": heads} if heads > 1 else {}),
            }
            for kv_tile, (q_tile, heads), pack in product(kv_tiles, q_tiles, packed)
        ]

    def describe(
        self,
        spec: PrefillSpec,
        shape: PrefillShape | SymbolicShape | PackedShape,
        variant: Variant,
    ) -> Any:
        heads = int(variant.get("heads", 1))
        tiles = Tiles(int(variant["q_tile"]), int(variant["kv_tile"]), heads=heads)
        return online_attention(spec, shape, tiles)

    def variant_for(self, spec: PrefillSpec, variant: Variant) -> Variant:
        return {**variant, "packed": True} if _is_converted(spec) else variant

    def facts(self, spec: PrefillSpec, variant: Variant) -> dict[str, str]:
        copied = "read where they are"
        if variant["packed"]:
            only = "values alone " if variant["packed"] == "values" else ""
            copied = f"{only}copied into rows that lie together"
            if _is_converted(spec):
                copied += f", from {spec.dtype} to float32"
        tiles = f"{variant['q_tile']} query rows by {variant['kv_tile']} keys"
        if "heads" in variant:
            tiles += f", rows of {variant['heads']} heads side by side"
        return {
            "tiles": tiles,
            "instruction": "the CPU's vectors, float32",
            "keys and values": copied,
        }

    def generator(self, spec: PrefillSpec, variant: Variant) -> Any:
        from tvm.s_tir.meta_schedule.mutator import MutateTileSize

        packed, vectors = cast(Packed, variant["packed"]), Vectors.of(variant)
        return one_schedule(
            lambda sch: schedule(sch, packed=packed, vectors=vectors),
            {} if vectors else {MutateTileSize(): 1.0},
        )


def _is_converted(spec: PrefillSpec) -> bool:
    """Whether tiles are made float32: as they are copied, once and not at each use."""
    return spec.dtype != "float32"


def schedule(sch: Any, *, packed: Packed, vectors: Vectors | None = AVX2) -> None:
    """Schedule the online description for a CPU.

    Parameters
    ----------
    sch : tvm.s_tir.Schedule
        Of an :func:`~prefilltune.tuning.derivation.online_attention`; scheduled in place.
    packed : bool or "values"
        Whether key and value tiles are copied before they are used, or those of values alone.
    vectors : Vectors or None
        What register tiles are made of; None for tiles as wide as sampled, which LLVM takes apart,
        as records have them whose variants name no registers.
    """
    sch.parallel(sch.fuse(*sch.get_loops(sch.get_sblock("attention"))))
    _rows_into_lanes(sch)
    copied = _COPIED[packed]
    if vectors:
        _set_long_rows_apart(sch, copied)
        sch.annotate(sch.get_loops(sch.get_sblock("score_tile"))[-1], TILES, _TOGETHER)
    _load_tiles(sch, vectors, copied)
    dot_reduction = _tile_score_gemm(sch, vectors)
    reductions = _vectorize_softmax(sch, vectors)
    out_reduction = _tile_value_gemm(sch, vectors)
    for name in ("rescale", "row_lse"):
        leave_to_llvm(sch, sch.get_loops(sch.get_sblock(name))[-1])
    for name in ("max_before", "row_max", "row_sum", "final_sum", "inv_sum", "output"):
        vectorize(sch, sch.get_loops(sch.get_sblock(name))[-1], vectors)
    # Last, because compute_at refuses reductions that are already decomposed.
    for block, loop in reductions:
        if vectors:
            sch.annotate(loop, TRIM, 1)
        vector, lane = sch.get_loops(sch.decompose_reduction(block, loop))[-2:]
        sch.unroll(vector)
        sch.vectorize(lane)
    for name, loop in (("dot", dot_reduction), ("tile_out", out_reduction)):
        init_loops = sch.get_loops(sch.decompose_reduction(sch.get_sblock(name), loop))
        for each in init_loops[-3:-1]:
            sch.unroll(each)
        sch.vectorize(init_loops[-1])


def _rows_into_lanes(sch: Any) -> None:
    """Lay every [q_tile, x] buffer of the first GEMM and the softmax out as [x, q_tile]."""
    for name in ("q_rows", "dot", "scores", "weights"):
        sch.transform_layout(sch.get_sblock(name), ("write", 0), lambda row, x: (x, row))
    sch.compute_inline(sch.get_sblock("probs"))


def _set_long_rows_apart(sch: Any, copied: Sequence[str]) -> None:
    """Have long rows begin an odd number of cache lines apart, so that columns lie in all sets."""
    rows = {"q_rows": -2, "scores": -2, "weights": -2}  # as the loops are: of a row, of an element
    for name, loop in {**rows, **dict.fromkeys(copied, -1)}.items():
        block = sch.get_sblock(name)
        if int(sch.get(sch.get_loops(block)[loop]).extent) >= _LONG_ROW:
            sch.storage_align(block, 0, 0, 2 * _LINE, _LINE)


def _load_tiles(sch: Any, vectors: Vectors | None, copied: Sequence[str]) -> None:
    _transpose(sch, "q_rows", vectors)
    for name in ("k_rows", "v_rows"):
        block = sch.get_sblock(name)
        if name in copied:
            if vectors:
                sch.annotate(sch.get_loops(block)[-2], TRIM, 1)
            vectorize(sch, sch.get_loops(block)[-1], vectors)
        else:
            sch.compute_inline(block)


def _transpose(sch: Any, name: str, vectors: Vectors | None) -> None:
    """Copy rows into columns: in square tiles of vectors, if they divide both."""
    row, element = sch.get_loops(sch.get_sblock(name))[-2:]
    lanes = vectors.lanes if vectors else 1
    side = math.gcd(int(sch.get(row).extent), int(sch.get(element).extent), lanes)
    if side == 1:
        sch.reorder(element, row)
        return
    row_tile, row_in_tile = sch.split(row, factors=[None, side])
    element_tile, element_in_tile = sch.split(element, factors=[None, side])
    # All rows of some elements before the next ones: what is not in cache is waited for together.
    sch.reorder(element_tile, row_tile, row_in_tile, element_in_tile)
    sch.annotate(row_in_tile, TRANSPOSE, 1)


def _tile_score_gemm(sch: Any, vectors: Vectors | None) -> Any:
    """Register-tile query times key; returns the loop of the reduction to decompose at."""
    row, column = sch.get_loops(sch.get_sblock("scores"))[-2:]
    if vectors:
        row_tile, row_vector, lane, width = _in_wide_tiles(sch, row, vectors)
        heights = vectors.heights(width, 0)
        column_tile, column_in_tile = _in_high_tiles(sch, column, heights, columns=True)
    else:
        column_tile, column_in_tile = _sampled(sch, column, 16)
        row_tile, row_vector, lane = sch.split(row, factors=[1, 1, None])
    sch.reorder(column_tile, row_tile, column_in_tile, row_vector, lane)
    dot = sch.get_sblock("dot")
    sch.compute_at(dot, row_tile, preserve_unit_loops=True)
    sch.set_scope(dot, 0, "local")
    dot_row, dot_column, reduction = sch.get_loops(dot)[-3:]
    if vectors:
        reduction_step, reduction_in_step = _unrolled(sch, reduction, _MULTIPLIED)
    else:
        reduction_step, reduction_in_step = _sampled(sch, reduction, 8)
    dot_vector, dot_lane = _in_vectors(sch, dot_row, vectors)
    sch.reorder(reduction_step, reduction_in_step, dot_column, dot_vector, dot_lane)
    for loop in (reduction_in_step, dot_column, dot_vector, column_in_tile, row_vector):
        sch.unroll(loop)
    for loop in (dot_lane, lane):
        sch.vectorize(loop)
    return reduction_step


def _vectorize_softmax(sch: Any, vectors: Vectors | None) -> list[tuple[Any, Any]]:
    """Vectorise over rows; returns (sblock, loop) of the reductions to decompose."""
    reductions = []
    for name in ("tile_max", "weights", "tile_sum"):
        block = sch.get_sblock(name)
        row, column = sch.get_loops(block)[-2:]
        sch.reorder(column, row)
        if name == "weights":
            leave_to_llvm(sch, row)
            if vectors:
                sch.annotate(column, TRIM, 1)
        else:
            vectorize(sch, row, vectors)
            reductions.append((block, column))
    return reductions


def _tile_value_gemm(sch: Any, vectors: Vectors | None) -> Any:
    """Register-tile weight times value; returns the loop of the reduction to decompose at."""
    row, element = sch.get_loops(sch.get_sblock("acc"))[-2:]
    if vectors:
        element_tile, element_vector, lane, width = _in_wide_tiles(sch, element, vectors)
        row_tile, row_in_tile = _in_high_tiles(sch, row, vectors.heights(width, 1))
    else:
        row_tile, row_in_tile = _sampled(sch, row, 8)
        element_tile, element_in_tile = _sampled(sch, element, 64)
        element_vector, lane = _in_vectors(sch, element_in_tile, vectors)
    sch.reorder(row_tile, element_tile, row_in_tile, element_vector, lane)
    out = sch.get_sblock("tile_out")
    sch.compute_at(out, element_tile, preserve_unit_loops=True)
    sch.set_scope(out, 0, "local")
    out_row, out_element, reduction = sch.get_loops(out)[-3:]
    if vectors:
        reduction_step, reduction_in_step = _unrolled(sch, reduction, vectors.summed, columns=True)
    else:
        reduction_step, reduction_in_step = _sampled(sch, reduction, 4)
    out_vector, out_lane = _in_vectors(sch, out_element, vectors)
    sch.reorder(reduction_step, reduction_in_step, out_row, out_vector, out_lane)
    for loop in (reduction_in_step, out_row, out_vector, row_in_tile, element_vector):
        sch.unroll(loop)
    for loop in (out_lane, lane):
        sch.vectorize(loop)
    return reduction_step


def _in_wide_tiles(sch: Any, loop: Any, vectors: Vectors) -> tuple[Any, Any, Any, int]:
    """``loop`` in tiles of vectors of lanes, and how many vectors each tile has."""
    width = vectors.width(int(sch.get(loop).extent))
    vector, lane = _in_vectors(sch, loop, vectors)
    tile, in_tile = sch.split(vector, factors=[None, width])
    return tile, in_tile, lane, width


def _in_high_tiles(
    sch: Any, loop: Any, heights: Sequence[int], *, columns: bool = False
) -> list[Any]:
    """``loop`` in tiles of one of the heights, the last of what is left."""
    height = _chosen(sch, heights)
    tile, in_tile = sch.split(loop, factors=[None, height])
    sch.annotate(tile, PEEL, 1)
    if columns:
        sch.annotate(tile, TRIM, height)
    return [tile, in_tile]


def _unrolled(sch: Any, loop: Any, lengths: Sequence[int], *, columns: bool = False) -> list[Any]:
    """``loop`` in two, the inner one, of which code is written out, of one of the lengths."""
    extent = int(sch.get(loop).extent)
    length = _chosen(sch, [*dict.fromkeys(math.gcd(extent, each) for each in lengths)])
    step, in_step = sch.split(loop, factors=[None, length])
    if columns:
        sch.annotate(step, TRIM, length)
    return [step, in_step]


def _chosen(sch: Any, candidates: Sequence[int]) -> Any:
    count = len(candidates)
    return sch.sample_categorical([*candidates], [1 / count] * count)


def _sampled(sch: Any, loop: Any, most: int) -> list[Any]:
    """``loop`` in two, the inner one no longer than ``most``."""
    factors = sch.sample_perfect_tile(loop, n=2, max_innermost_factor=most)
    return sch.split(loop, factors=factors)


def _in_vectors(sch: Any, loop: Any, vectors: Vectors | None) -> list[Any]:
    """``loop`` in vectors of lanes: of fewer, if it is no multiple of what a register has.

    LLVM takes vectors of three times as many lanes apart element by element.
    """
    extent = int(sch.get(loop).extent)
    lanes = math.gcd(extent, vectors.lanes) if vectors else extent
    return sch.split(loop, factors=[None, lanes])


def leave_to_llvm(sch: Any, loop: Any) -> None:
    """Vectorise a loop of powers or logarithms: TVM leaves it scalar, and LLVM needs all of it."""
    sch.vectorize(loop)


def vectorize(sch: Any, loop: Any, vectors: Vectors | None) -> None:
    """``loop`` in vectors of lanes, written out."""
    vector, lane = _in_vectors(sch, loop, vectors)
    sch.unroll(vector)
    sch.vectorize(lane)
