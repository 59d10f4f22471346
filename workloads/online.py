"""The tile-granular description: softmax carried from kv tile to kv tile, still unscheduled.

The recurrence is that of Milakov and Gimelshein, "Online normalizer calculation for softmax"
(arXiv:1805.02867), tiled as in FlashAttention (arXiv:2205.14135). Carried state is written as
reductions over the kv tiles, so that every sblock is complete or a reduction and each schedule
primitive applies.
"""

# TVMScript writes the shapes of buffers where Python has types.
# pyright: reportInvalidTypeForm=false

from __future__ import annotations

import tvm
from tvm.script import tirx as T

from .elementary import POLYNOMIALS, Elementary, elementary_of
from .expressions import MASKED_SCORE, MASKS, LengthMask, defined_sum, score, stored_lse, value
from .lse import MAX_INIT
from .spec import PrefillShape, PrefillSpec, SymbolicShape, require_indexable
from .tiles import Tiles


def online_attention(
    spec: PrefillSpec,
    shape: PrefillShape | SymbolicShape,
    tiles: Tiles,
    elementary: Elementary | str = POLYNOMIALS,
) -> tvm.IRModule:
    """Describe ``spec`` on ``shape`` tile by tile.

    Returns
    -------
    IRModule
        With one PrimFunc ``main(query, key, value, valid_lens, output, lse)``; shapes as in
        :func:`~prefilltune.workloads.plain.plain_attention`.
    """
    require_indexable(spec, shape)
    elementary = elementary_of(elementary)
    dtype, operand = spec.dtype, tiles.operand_dtype
    B, LQ, LKV = shape.batch, shape.qo_len, shape.num_kv
    HQ, HKV, D, G = spec.num_qo_heads, spec.num_kv_heads, spec.head_dim, spec.group_size
    BQ, BKV = tiles.q_tile, tiles.kv_tile
    NQ, NKV = -(-LQ // BQ), -(-LKV // BKV)
    mask = LengthMask(MASKS[spec.mask_mode], LQ, LKV)

    @T.prim_func(s_tir=True)
    def main(
        q: T.Buffer((B, LQ, HQ, D), dtype),  # [batch, qo_len, num_qo_heads, head_dim]
        k: T.Buffer((B, LKV, HKV, D), dtype),  # [batch, kv_len, num_kv_heads, head_dim]
        v: T.Buffer((B, LKV, HKV, D), dtype),  # [batch, kv_len, num_kv_heads, head_dim]
        valid_lens: T.Buffer((B,), "int32"),  # [batch]
        output: T.Buffer((B, LQ, HQ, D), dtype),  # [batch, qo_len, num_qo_heads, head_dim]
        lse: T.Buffer((B, LQ, HQ), spec.lse_type),  # [batch, qo_len, num_qo_heads]
    ):
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        for h, b, it in T.grid(HQ, B, NQ):
            with T.sblock("attention"):
                vh, vb, vi = T.axis.remap("SSS", [h, b, it])
                T.reads(
                    q[vb, 0:LQ, vh, 0:D],
                    k[vb, 0:LKV, vh // G, 0:D],
                    v[vb, 0:LKV, vh // G, 0:D],
                    valid_lens[vb],
                )
                T.writes(
                    output[vb, vi * BQ : vi * BQ + BQ, vh, 0:D],
                    lse[vb, vi * BQ : vi * BQ + BQ, vh],
                )
                q_rows = T.sblock_alloc_buffer((BQ, D), operand)  # [q_tile, head_dim]
                scores = T.sblock_alloc_buffer((BQ, BKV), "float32")  # [q_tile, kv_tile]
                tile_max = T.sblock_alloc_buffer((BQ,), "float32")  # [q_tile]
                tile_sum = T.sblock_alloc_buffer((BQ,), "float32")  # [q_tile]
                max_before = T.sblock_alloc_buffer((BQ,), "float32")  # [q_tile]
                row_max = T.sblock_alloc_buffer((BQ,), "float32")  # [q_tile]
                rescale = T.sblock_alloc_buffer((BQ,), "float32")  # [q_tile]
                row_sum = T.sblock_alloc_buffer((BQ,), "float32")  # [q_tile]
                final_sum = T.sblock_alloc_buffer((BQ,), "float32")  # [q_tile]
                row_lse = T.sblock_alloc_buffer((BQ,), spec.lse_type)  # [q_tile]
                inv_sum = T.sblock_alloc_buffer((BQ,), "float32")  # [q_tile]
                acc = T.sblock_alloc_buffer((BQ, D), "float32")  # [q_tile, head_dim]
                valid_len: T.let[T.int32] = valid_lens[vb]
                kv_begin: T.let[T.int32] = mask.kv_range(vi * BQ, BQ, valid_len)[0]
                kv_end: T.let[T.int32] = mask.kv_range(vi * BQ, BQ, valid_len)[1]
                if kv_begin < kv_end:
                    for i, d in T.grid(BQ, D):
                        with T.sblock("q_rows"):
                            wi, wd = T.axis.remap("SS", [i, d])
                            q_rows[wi, wd] = T.cast(
                                q[vb, T.min(vi * BQ + wi, LQ - 1), vh, wd], operand
                            )
                for t in range((kv_end - kv_begin + (BKV - 1)) // BKV):
                    with T.sblock("score_tile"):
                        vt = T.axis.spatial(NKV, t)
                        T.reads(q_rows[0:BQ, 0:D], k[vb, 0:LKV, vh // G, 0:D])
                        T.writes(scores[0:BQ, 0:BKV], tile_max[0:BQ])
                        k_rows = T.sblock_alloc_buffer((BKV, D), operand)  # [kv_tile, head_dim]
                        dot = T.sblock_alloc_buffer((BQ, BKV), "float32")  # [q_tile, kv_tile]
                        # Rows past the end repeat the last valid one: no padding is ever read.
                        for j, d in T.grid(BKV, D):
                            with T.sblock("k_rows"):
                                wj, wd = T.axis.remap("SS", [j, d])
                                k_rows[wj, wd] = T.cast(
                                    k[vb, T.min(kv_begin + vt * BKV + wj, kv_end - 1), vh // G, wd],
                                    operand,
                                )
                        for i, j, d in T.grid(BQ, BKV, D):
                            with T.sblock("dot"):
                                wi, wj, wd = T.axis.remap("SSR", [i, j, d])
                                with T.init():
                                    dot[wi, wj] = T.float32(0)
                                dot[wi, wj] = dot[wi, wj] + T.cast(
                                    q_rows[wi, wd], "float32"
                                ) * T.cast(k_rows[wj, wd], "float32")
                        for i, j in T.grid(BQ, BKV):
                            with T.sblock("scores"):
                                wi, wj = T.axis.remap("SS", [i, j])
                                scores[wi, wj] = T.Select(
                                    mask.kept(vi * BQ + wi, kv_begin + vt * BKV + wj, valid_len),
                                    score(spec, dot[wi, wj]),
                                    T.float32(MASKED_SCORE),
                                )
                        for i, j in T.grid(BQ, BKV):
                            with T.sblock("tile_max"):
                                wi, wj = T.axis.remap("SR", [i, j])
                                with T.init():
                                    tile_max[wi] = T.min_value("float32")
                                tile_max[wi] = T.max(tile_max[wi], scores[wi, wj])
                    for i in range(BQ):
                        with T.sblock("max_before"):
                            wi = T.axis.spatial(BQ, i)
                            wt = T.axis.spatial(NKV, t)
                            max_before[wi] = T.if_then_else(
                                wt == 0, T.float32(MAX_INIT), row_max[wi]
                            )
                    for i in range(BQ):
                        with T.sblock("row_max"):
                            wi = T.axis.spatial(BQ, i)
                            wt = T.axis.reduce(NKV, t)
                            with T.init():
                                row_max[wi] = T.float32(MAX_INIT)
                            row_max[wi] = T.max(row_max[wi], tile_max[wi])
                    for i in range(BQ):
                        with T.sblock("rescale"):
                            wi = T.axis.spatial(BQ, i)
                            rescale[wi] = elementary.exp2(max_before[wi] - row_max[wi])
                    with T.sblock("value_tile"):
                        vt = T.axis.reduce(NKV, t)
                        T.reads(
                            scores[0:BQ, 0:BKV],
                            row_max[0:BQ],
                            rescale[0:BQ],
                            v[vb, 0:LKV, vh // G, 0:D],
                            acc[0:BQ, 0:D],
                        )
                        T.writes(tile_sum[0:BQ], acc[0:BQ, 0:D])
                        v_rows = T.sblock_alloc_buffer((BKV, D), operand)  # [kv_tile, head_dim]
                        weights = T.sblock_alloc_buffer((BQ, BKV), "float32")  # [q_tile, kv_tile]
                        probs = T.sblock_alloc_buffer((BQ, BKV), operand)  # [q_tile, kv_tile]
                        tile_out = T.sblock_alloc_buffer((BQ, D), "float32")  # [q_tile, head_dim]
                        for j, d in T.grid(BKV, D):
                            with T.sblock("v_rows"):
                                wj, wd = T.axis.remap("SS", [j, d])
                                v_rows[wj, wd] = T.cast(
                                    v[vb, T.min(kv_begin + vt * BKV + wj, kv_end - 1), vh // G, wd],
                                    operand,
                                )
                        for i, j in T.grid(BQ, BKV):
                            with T.sblock("weights"):
                                wi, wj = T.axis.remap("SS", [i, j])
                                weights[wi, wj] = elementary.exp2(scores[wi, wj] - row_max[wi])
                        for i, j in T.grid(BQ, BKV):
                            with T.sblock("tile_sum"):
                                wi, wj = T.axis.remap("SR", [i, j])
                                with T.init():
                                    tile_sum[wi] = T.float32(0)
                                tile_sum[wi] = tile_sum[wi] + weights[wi, wj]
                        for i, j in T.grid(BQ, BKV):
                            with T.sblock("probs"):
                                wi, wj = T.axis.remap("SS", [i, j])
                                probs[wi, wj] = T.cast(weights[wi, wj], operand)
                        for i, d, j in T.grid(BQ, D, BKV):
                            with T.sblock("tile_out"):
                                wi, wd, wj = T.axis.remap("SSR", [i, d, j])
                                with T.init():
                                    tile_out[wi, wd] = T.float32(0)
                                tile_out[wi, wd] = tile_out[wi, wd] + T.cast(
                                    probs[wi, wj], "float32"
                                ) * T.cast(v_rows[wj, wd], "float32")
                        for i, d in T.grid(BQ, D):
                            with T.sblock("acc"):
                                wi, wd = T.axis.remap("SS", [i, d])
                                wt = T.axis.reduce(NKV, vt)
                                with T.init():
                                    acc[wi, wd] = T.float32(0)
                                acc[wi, wd] = acc[wi, wd] * rescale[wi] + tile_out[wi, wd]
                    for i in range(BQ):
                        with T.sblock("row_sum"):
                            wi = T.axis.spatial(BQ, i)
                            wt = T.axis.reduce(NKV, t)
                            with T.init():
                                row_sum[wi] = T.float32(0)
                            row_sum[wi] = row_sum[wi] * rescale[wi] + tile_sum[wi]
                # What a tile without keys leaves in the carried state is never computed with.
                for i in range(BQ):
                    with T.sblock("final_sum"):
                        wi = T.axis.spatial(BQ, i)
                        final_sum[wi] = T.Select(
                            mask.row_valid(vi * BQ + wi, valid_len),
                            defined_sum(row_sum[wi]),
                            T.float32(1),
                        )
                for i in range(BQ):
                    with T.sblock("inv_sum"):
                        wi = T.axis.spatial(BQ, i)
                        inv_sum[wi] = T.float32(1) / final_sum[wi]
                for i, d in T.grid(BQ, D):
                    with T.sblock("output"):
                        wi, wd = T.axis.remap("SS", [i, d])
                        T.where(vi * BQ + i < LQ)
                        output[vb, vi * BQ + wi, vh, wd] = T.cast(
                            value(mask.row_valid(vi * BQ + wi, valid_len), acc[wi, wd])
                            * inv_sum[wi],
                            dtype,
                        )
                for i in range(BQ):
                    with T.sblock("row_lse"):
                        wi = T.axis.spatial(BQ, i)
                        row_lse[wi] = stored_lse(
                            elementary,
                            spec.lse_type,
                            mask.row_valid(vi * BQ + wi, valid_len),
                            row_max[wi],
                            final_sum[wi],
                        )
                for i in range(BQ):
                    with T.sblock("lse"):
                        wi = T.axis.spatial(BQ, i)
                        T.where(vi * BQ + i < LQ)
                        lse[vb, vi * BQ + wi, vh] = row_lse[wi]

    return tvm.IRModule({"main": main})
