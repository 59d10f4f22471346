"""The online description as one flat sequence of sblocks a kv tile, for targets that pipeline.

The recurrence is that of :mod:`prefilltune.tuning.derivation`. What differs is what tensor cores
and a software pipeline need: every step is a direct child of the kv loop, where the pipeline can
order it; the carried output is rescaled and added to in one reduction, which a matrix instruction
accumulates in place; the scale is applied after the maximum, so that it costs one fused
multiply-add an element; and the maximum moves only where it must (:data:`SLACK`).
"""

# TVMScript writes the shapes of buffers where Python has types.
# pyright: reportInvalidTypeForm=false

from __future__ import annotations

from dataclasses import dataclass

import tvm
from tvm.script import tirx as T

from .elementary import PTX, Elementary, elementary_of
from .expressions import MASKED_SCORE, MAX_INIT, LengthMask, mask_of, or_nan, score, stored_lse
from .spec import PrefillShape, PrefillSpec, SymbolicShape, require_indexable
from .tiles import Tiles

#: How far a score may lie above the maximum that a row's weights are relative to, before this is
#: moved and what was summed up is rescaled: weights reach 2^8 and stay exact in 16 bits, and few
#: tiles rescale anything (as in FlashAttention-4).
SLACK = 8.0

#: The largest score, up or down, of a row that is not NaN. A weight is 2 to a difference of which
#: one side is rounded and the other is not: up to here it is off by a factor of 4 for all of a row
#: alike, which its sum takes out again; from 2^28 on, weights would overflow or vanish in 16 bits.
MAX_SCORE = 2.0**26

#: Columns of a register fragment: what one value a row is spread over to stand beside a matrix.
FRAGMENT_COLUMNS = 8


@dataclass(frozen=True)
class PipelinedTiles(Tiles):
    """What the pipelined description fixes before any schedule.

    Parameters
    ----------
    ring : int
        Key tiles kept at once, those computed with and those being loaded; and value tiles.
    staged_output : bool
        Whether the output is a tile first, which is then copied.
    """

    ring: int = 2
    staged_output: bool = False


def pipelined_attention(
    spec: PrefillSpec,
    shape: PrefillShape | SymbolicShape,
    tiles: PipelinedTiles,
    elementary: Elementary | str = PTX,
) -> tvm.IRModule:
    """Describe ``spec`` on ``shape`` tile by tile, every step of a kv tile side by side.

    Returns
    -------
    IRModule
        With one PrimFunc ``main(query, key, value, valid_lens, output, lse)``; shapes as in
        :func:`~prefilltune.workloads.plain.plain_attention`. Rows with a score beyond
        :data:`MAX_SCORE` are NaN.
    """
    require_indexable(spec, shape)
    elementary = elementary_of(elementary)
    dtype, operand = spec.dtype, tiles.operand_dtype
    B, LQ, LKV = shape.batch, shape.qo_len, shape.num_kv
    HQ, HKV, D, G = spec.num_qo_heads, spec.num_kv_heads, spec.head_dim, spec.group_size
    BQ, BKV = tiles.q_tile, tiles.kv_tile
    NQ, NKV = -(-LQ // BQ), -(-LKV // BKV)
    mask = LengthMask(mask_of(spec), LQ, LKV)
    R, FC = tiles.ring, FRAGMENT_COLUMNS

    begin_moves, end_moves = mask.moves

    def longest_first(tile):
        """Of a causal mask the last rows see the most keys: begun first, they end in time."""
        return NQ - 1 - tile if end_moves and not begin_moves else tile

    def kept(row, column, valid_len):
        """A begin that all rows share is where a tile's columns begin, and need not be asked."""
        if begin_moves:
            return mask.kept(row, column, valid_len)
        return column < mask.columns(row, valid_len)[1]

    def unmasked(row_begin, column, full_end, valid_len):
        """Whether all rows of a tile see all columns of a key tile that begins at ``column``."""
        ends_in_time = column + BKV <= full_end
        if begin_moves:
            full_begin, _ = mask.seen_by_all(row_begin, BQ, valid_len)
            return T.And(column >= full_begin, ends_in_time)
        return ends_in_time

    def normalised(row, valid_len, total, inverse):
        """What a row of the output holds; zeros where it is padding."""
        valid = mask.row_valid(row, valid_len)
        return T.cast(T.if_then_else(valid, total * inverse, T.float32(0)), dtype)

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
        for b, h, it in T.grid(B, HQ, NQ):
            with T.sblock("attention"):
                vb, vh = T.axis.remap("SS", [b, h])
                vi = T.axis.spatial(NQ, longest_first(it))
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
                k_rows = T.sblock_alloc_buffer((R, BKV, D), operand)  # [ring, kv_tile, head_dim]
                v_rows = T.sblock_alloc_buffer((R, BKV, D), operand)  # [ring, kv_tile, head_dim]
                dot = T.sblock_alloc_buffer((BQ, BKV), "float32")  # [q_tile, kv_tile]
                scores = T.sblock_alloc_buffer((BQ, BKV), "float32")  # [q_tile, kv_tile]
                weights = T.sblock_alloc_buffer((BQ, BKV), "float32")  # [q_tile, kv_tile]
                probs = T.sblock_alloc_buffer((BQ, BKV), operand)  # [q_tile, kv_tile]
                tile_max = T.sblock_alloc_buffer((BQ,), "float32")  # [q_tile]
                tile_sum = T.sblock_alloc_buffer((BQ, FC // 2), "float32")  # [q_tile, lanes]
                max_before = T.sblock_alloc_buffer((BQ,), "float32")  # [q_tile]
                row_max = T.sblock_alloc_buffer((BQ,), "float32")  # [q_tile]
                rescale = T.sblock_alloc_buffer((BQ, FC), "float32")  # [q_tile, fragment columns]
                row_sum = T.sblock_alloc_buffer((BQ, FC // 2), "float32")  # [q_tile, lanes]
                whole_sum = T.sblock_alloc_buffer((BQ,), "float32")  # [q_tile]
                final_sum = T.sblock_alloc_buffer((BQ,), "float32")  # [q_tile]
                inv_sum = T.sblock_alloc_buffer((BQ,), "float32")  # [q_tile]
                acc = T.sblock_alloc_buffer((BQ, D), "float32")  # [q_tile, head_dim]
                valid_len: T.let[T.int32] = valid_lens[vb]
                kv_begin: T.let[T.int32] = mask.kv_range(vi * BQ, BQ, valid_len)[0]
                kv_end: T.let[T.int32] = mask.kv_range(vi * BQ, BQ, valid_len)[1]
                full_end: T.let[T.int32] = mask.seen_by_all(vi * BQ, BQ, valid_len)[1]
                tile_count: T.let[T.int32] = (kv_end - kv_begin + (BKV - 1)) // BKV
                for i, d in T.grid(BQ, D):
                    with T.sblock("q_rows"):
                        wi, wd = T.axis.remap("SS", [i, d])
                        q_rows[wi, wd] = T.cast(q[vb, T.min(vi * BQ + wi, LQ - 1), vh, wd], operand)
                for t in range(tile_count):
                    # Rows past the end repeat the last valid one: no padding is ever read.
                    for j, d in T.grid(BKV, D):
                        with T.sblock("k_rows"):
                            wt, wj, wd = T.axis.remap("SSS", [t, j, d])
                            k_rows[wt % R, wj, wd] = T.cast(
                                k[vb, T.min(kv_begin + wt * BKV + wj, kv_end - 1), vh // G, wd],
                                operand,
                            )
                    for j, d in T.grid(BKV, D):
                        with T.sblock("v_rows"):
                            wt, wj, wd = T.axis.remap("SSS", [t, j, d])
                            v_rows[wt % R, wj, wd] = T.cast(
                                v[vb, T.min(kv_begin + wt * BKV + wj, kv_end - 1), vh // G, wd],
                                operand,
                            )
                    for i, j, d in T.grid(BQ, BKV, D):
                        with T.sblock("dot"):
                            wt, wi, wj, wd = T.axis.remap("SSSR", [t, i, j, d])
                            with T.init():
                                dot[wi, wj] = T.float32(0)
                            dot[wi, wj] = dot[wi, wj] + T.cast(q_rows[wi, wd], "float32") * T.cast(
                                k_rows[wt % R, wj, wd], "float32"
                            )
                    # One branch for all the columns of a lane: most tiles need no mask.
                    for i, lane in T.grid(BQ, FC // 2):
                        with T.sblock("scores"):
                            wt, wi, wl = T.axis.remap("SSS", [t, i, lane])
                            T.reads(dot[wi, 0:BKV])
                            T.writes(scores[wi, 0:BKV])
                            if unmasked(vi * BQ, kv_begin + wt * BKV, full_end, valid_len):
                                for fragment in T.unroll(BKV // FC):
                                    for pair in T.unroll(2):
                                        scores[wi, fragment * FC + wl * 2 + pair] = dot[
                                            wi, fragment * FC + wl * 2 + pair
                                        ]
                            else:
                                for fragment in T.unroll(BKV // FC):
                                    for pair in T.unroll(2):
                                        scores[wi, fragment * FC + wl * 2 + pair] = T.Select(
                                            kept(
                                                vi * BQ + wi,
                                                kv_begin + wt * BKV + fragment * FC + wl * 2 + pair,
                                                valid_len,
                                            ),
                                            dot[wi, fragment * FC + wl * 2 + pair],
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
                            row_max[wi] = T.Select(
                                score(elementary, spec, tile_max[wi])
                                > row_max[wi] + T.float32(SLACK),
                                score(elementary, spec, tile_max[wi]),
                                row_max[wi],
                            )
                    for i, c in T.grid(BQ, FC):
                        with T.sblock("rescale"):
                            wi, wc = T.axis.remap("SS", [i, c])
                            rescale[wi, wc] = elementary.exp2(max_before[wi] - row_max[wi])
                    for i, j in T.grid(BQ, BKV):
                        with T.sblock("weights"):
                            wi, wj = T.axis.remap("SS", [i, j])
                            weights[wi, wj] = elementary.exp2(
                                score(elementary, spec, scores[wi, wj]) - row_max[wi]
                            )
                    # Each lane sums its own columns; the lanes are added up once, at the end.
                    for i, lane, j in T.grid(BQ, FC // 2, BKV // FC * 2):
                        with T.sblock("tile_sum"):
                            wi, wl, wj = T.axis.remap("SSR", [i, lane, j])
                            with T.init():
                                tile_sum[wi, wl] = T.float32(0)
                            tile_sum[wi, wl] = (
                                tile_sum[wi, wl] + weights[wi, wj // 2 * FC + wl * 2 + wj % 2]
                            )
                    for i, lane in T.grid(BQ, FC // 2):
                        with T.sblock("row_sum"):
                            wi, wl = T.axis.remap("SS", [i, lane])
                            wt = T.axis.reduce(NKV, t)
                            with T.init():
                                row_sum[wi, wl] = T.float32(0)
                            row_sum[wi, wl] = (
                                row_sum[wi, wl] * rescale[wi, wl * 2] + tile_sum[wi, wl]
                            )
                    for i, j in T.grid(BQ, BKV):
                        with T.sblock("probs"):
                            wi, wj = T.axis.remap("SS", [i, j])
                            probs[wi, wj] = T.cast(weights[wi, wj], operand)
                    for i, d, j in T.grid(BQ, D, BKV):
                        with T.sblock("acc"):
                            wi, wd = T.axis.remap("SS", [i, d])
                            wt, wj = T.axis.remap("RR", [t, j])
                            with T.init():
                                acc[wi, wd] = T.float32(0)
                            acc[wi, wd] = acc[wi, wd] * T.if_then_else(
                                wj == 0, rescale[wi, wd % FC], T.float32(1)
                            ) + T.cast(probs[wi, wj], "float32") * T.cast(
                                v_rows[wt % R, wj, wd], "float32"
                            )
                for i, lane in T.grid(BQ, FC // 2):
                    with T.sblock("whole_sum"):
                        wi, wl = T.axis.remap("SR", [i, lane])
                        with T.init():
                            whole_sum[wi] = T.float32(0)
                        whole_sum[wi] = whole_sum[wi] + row_sum[wi, wl]
                # What a tile without keys leaves in the carried state is never computed with. A row
                # of +Inf, or of -Inf alone, whose maximum is where it began, is out of range too.
                for i in range(BQ):
                    with T.sblock("final_sum"):
                        wi = T.axis.spatial(BQ, i)
                        final_sum[wi] = T.Select(
                            mask.row_valid(vi * BQ + wi, valid_len),
                            or_nan(T.abs(row_max[wi]) <= T.float32(MAX_SCORE), whole_sum[wi]),
                            T.float32(1),
                        )
                for i in range(BQ):
                    with T.sblock("inv_sum"):
                        wi = T.axis.spatial(BQ, i)
                        inv_sum[wi] = T.float32(1) / final_sum[wi]
                if tiles.staged_output:
                    out_rows = T.sblock_alloc_buffer((BQ, D), dtype)  # [q_tile, head_dim]
                    for i, d in T.grid(BQ, D):
                        with T.sblock("out_rows"):
                            wi, wd = T.axis.remap("SS", [i, d])
                            out_rows[wi, wd] = normalised(
                                vi * BQ + wi, valid_len, acc[wi, wd], inv_sum[wi]
                            )
                    for i, d in T.grid(BQ, D):
                        with T.sblock("output"):
                            wi, wd = T.axis.remap("SS", [i, d])
                            T.where(vi * BQ + i < LQ)
                            output[vb, vi * BQ + wi, vh, wd] = out_rows[wi, wd]
                else:
                    for i, d in T.grid(BQ, D):
                        with T.sblock("output"):
                            wi, wd = T.axis.remap("SS", [i, d])
                            T.where(vi * BQ + i < LQ)
                            output[vb, vi * BQ + wi, vh, wd] = normalised(
                                vi * BQ + wi, valid_len, acc[wi, wd], inv_sum[wi]
                            )
                for i in range(BQ):
                    with T.sblock("lse"):
                        wi = T.axis.spatial(BQ, i)
                        T.where(vi * BQ + i < LQ)
                        lse[vb, vi * BQ + wi, vh] = stored_lse(
                            elementary,
                            spec.lse_type,
                            mask.row_valid(vi * BQ + wi, valid_len),
                            row_max[wi],
                            final_sum[wi],
                        )

    return tvm.IRModule({"main": main})
