"""CPU kernels whose products run on the tiles of AMX: bfloat16 on Intel's servers since 2023.

Query rows lie in the vector lanes, as in :mod:`.llvm_fused`, and the softmax is the same. Both
products give their results so: the first takes keys as they lie for its rows and queries, two
elements beside each other, for its columns; the second values transposed and weights, those of two
keys beside each other. So neither scores nor weights ever change places.

A tile of AMX multiplies sixteen times as many elements in a cycle as the vectors do; what is left
is the softmax and the copies, of which larger tiles of queries need fewer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, ClassVar

from ...workloads import PackedShape, PrefillShape, PrefillSpec, SymbolicShape, Tiles
from ..derivation import online_attention
from ..pipeline import PAIR, TILE_REGISTERS, TRANSPOSE
from ..target import ResolvedTarget, has_feature
from .llvm_fused import Vectors, leave_to_llvm, vectorize
from .space import DesignSpace, Variant, one_schedule, reaching

_Q_TILES, _KV_TILES = (128, 64, 256, 32), (64, 128, 32)
_DTYPE = "bfloat16"
#: Of a CPU that has AMX.
_VECTORS = Vectors(32, 16)
_WORDS = 32  # 16-bit elements of a vector


class LlvmAmx(DesignSpace):
    """The online description with both products on tile registers, tile sizes as variants."""

    name: ClassVar[str] = "llvm_amx"
    kinds: ClassVar[frozenset[str]] = frozenset({"llvm"})

    def variants(
        self, spec: PrefillSpec, shape: PrefillShape, target: ResolvedTarget
    ) -> Sequence[Variant]:
        if not (self.takes(spec) and has_feature(target.target, "amx-bf16")):
            return []
        q_tiles = reaching(_Q_TILES, shape.qo_len)
        kv_tiles = reaching(_KV_TILES, shape.num_kv)
        return [
            {"q_tile": q_tile, "kv_tile": kv_tile} for kv_tile, q_tile in product(kv_tiles, q_tiles)
        ]

    def takes(self, spec: PrefillSpec) -> bool:
        from ..intrinsics import amx

        return spec.dtype == _DTYPE and spec.head_dim % amx.SIDE == 0

    def describe(
        self,
        spec: PrefillSpec,
        shape: PrefillShape | SymbolicShape | PackedShape,
        variant: Variant,
    ) -> Any:
        self.register(spec, variant)
        tiles = Tiles(int(variant["q_tile"]), int(variant["kv_tile"]), _DTYPE)
        return online_attention(spec, shape, tiles)

    def facts(self, spec: PrefillSpec, variant: Variant) -> dict[str, str]:
        return {
            "tiles": f"{variant['q_tile']} query rows by {variant['kv_tile']} keys",
            "instruction": "tdpbf16ps (AMX), softmax in the CPU's vectors, float32",
            "keys and values": "copied, values transposed",
        }

    def generator(self, spec: PrefillSpec, variant: Variant) -> Any:
        self.register(spec, variant)
        return one_schedule(schedule)

    def register(self, spec: PrefillSpec, variant: Variant) -> tuple[str, ...]:
        from ..intrinsics import amx

        depths = {spec.head_dim, int(variant["kv_tile"])}
        return (amx.begin_intrin(), *(amx.product_intrin(each) for each in sorted(depths)))


def schedule(sch: Any) -> None:
    """Schedule the online description, with operands of bfloat16, for a CPU with AMX.

    Parameters
    ----------
    sch : tvm.s_tir.Schedule
        Scheduled in place.
    """
    loop = sch.fuse(*sch.get_loops(sch.get_sblock("attention")))
    sch.parallel(loop)
    sch.annotate(loop, TILE_REGISTERS, 1)
    _lay_out(sch)
    _load_tiles(sch)
    for name in ("dot", "tile_out"):
        _tensorize(sch, name)
    reductions = _vectorize_softmax(sch)
    _pair_keys(sch)
    for block, column in reductions:
        vector, lane = sch.get_loops(sch.decompose_reduction(block, column))[-2:]
        sch.unroll(vector)
        sch.vectorize(lane)


def _lay_out(sch: Any) -> None:
    """Rows of queries last in all that is computed, pairs of what is summed over in operands."""
    value_tile = sch.get_sblock("value_tile")
    reads = [region.source.name for region in sch.get(value_tile).reads]
    # TVM's transformation of a layout takes what a block reads of its own result for missing.
    sch.unsafe_hide_buffer_access(value_tile, "read", [reads.index("acc")])
    for name in ("q_rows", "probs"):
        sch.transform_layout(
            sch.get_sblock(name), ("write", 0), lambda row, x: (x // 2, row * 2 + x % 2)
        )
    for name in ("dot", "scores", "weights", "v_rows", "tile_out", "acc"):
        sch.transform_layout(sch.get_sblock(name), ("write", 0), lambda row, x: (x, row))


def _load_tiles(sch: Any) -> None:
    vectorize(sch, sch.get_loops(sch.get_sblock("k_rows"))[-1], Vectors(32, _WORDS))
    key, element = sch.get_loops(sch.get_sblock("v_rows"))[-2:]
    key_tile, key_in_tile = sch.split(key, factors=[None, _WORDS])
    element_tile, element_in_tile = sch.split(element, factors=[None, _WORDS])
    sch.reorder(key_tile, element_tile, key_in_tile, element_in_tile)
    sch.annotate(key_in_tile, TRANSPOSE, 1)


def _tensorize(sch: Any, name: str) -> None:
    """A product, 32 by 32 results at a time."""
    from ..intrinsics import amx

    block = sch.get_sblock(name)
    row, column, summed = sch.get_loops(block)[-3:]
    depth = int(sch.get(summed).extent)
    row_tile, row_in_tile = sch.split(row, factors=[None, amx.SIDE])
    column_tile, column_in_tile = sch.split(column, factors=[None, amx.SIDE])
    sch.reorder(column_tile, row_tile, row_in_tile, column_in_tile, summed)
    begin = sch.decompose_reduction(block, row_in_tile)
    sch.tensorize(sch.blockize(sch.get_loops(begin)[-2]), amx.begin_intrin())
    sch.tensorize(sch.blockize(row_in_tile), amx.product_intrin(depth))


def _vectorize_softmax(sch: Any) -> list[tuple[Any, Any]]:
    """Vectorise over rows; returns (sblock, loop) of the reductions to decompose."""
    reductions = []
    for name in ("scores", "tile_max", "weights", "tile_sum", "acc"):
        block = sch.get_sblock(name)
        row, x = sch.get_loops(block)[-2:]
        sch.reorder(x, row)
        if name == "weights":
            leave_to_llvm(sch, row)
        else:
            vectorize(sch, row, _VECTORS)
        if name in ("tile_max", "tile_sum"):
            reductions.append((block, x))
    for name in ("rescale", "row_lse"):
        leave_to_llvm(sch, sch.get_loops(sch.get_sblock(name))[-1])
    for name in ("max_before", "row_max", "row_sum", "final_sum", "inv_sum"):
        vectorize(sch, sch.get_loops(sch.get_sblock(name))[-1], _VECTORS)
    return reductions


def _pair_keys(sch: Any) -> None:
    """Weights of two keys beside each other, a vector of either at a time."""
    row, key = sch.get_loops(sch.get_sblock("probs"))[-2:]
    pair, in_pair = sch.split(key, factors=[None, 2])
    row_tile, row_in_tile = sch.split(row, factors=[None, _VECTORS.lanes])
    sch.reorder(pair, row_tile, row_in_tile, in_pair)
    sch.annotate(row_in_tile, PAIR, 1)
