"""The plain description: attention stage by stage over whole tensors, unscheduled.

This is the meaning in TIR. It runs as it is on ``llvm``, slowly, and is what stock schedule rules
are given.
"""

# TVMScript writes the shapes of buffers where Python has types.
# pyright: reportInvalidTypeForm=false

from __future__ import annotations

from functools import lru_cache

import tvm
from tvm import tirx
from tvm.s_tir import renew_defs
from tvm.script import tirx as T

from .elementary import POLYNOMIALS, Elementary, elementary_of
from .expressions import (
    MASKED_SCORE,
    defined_sum,
    score,
    stored_lse,
    value,
)
from .layouts import layout_of
from .shapes import PackedShape, PrefillShape, SymbolicShape
from .sizes import require_indexable
from .spec import PrefillSpec


def plain_attention(
    spec: PrefillSpec,
    shape: PrefillShape | SymbolicShape | PackedShape,
    elementary: Elementary | str = POLYNOMIALS,
) -> tvm.IRModule:
    """Describe ``spec`` on ``shape``, one sblock a stage.

    Parameters
    ----------
    spec, shape
        The workload. Of a packed spec, a :class:`PrefillShape` is one of tensors with room for
        sequences that are all of the greatest length.
    elementary : Elementary or str
        2^x and log2 in a form that the target computes fast, or the name of its kind.

    Returns
    -------
    IRModule
        With one PrimFunc ``main(q, k, v, valid_lens, output, lse)``, of a spec with a bias
        ``main(q, k, v, valid_lens, bias, output, lse)``:

        - ``q`` and ``output`` ``[batch, qo_len, num_qo_heads, head_dim]``,
        - ``k`` and ``v`` ``[batch, kv_len, num_kv_heads, head_dim]``,
        - ``valid_lens`` ``[batch]`` int32; out of range it is clamped,
        - ``bias`` ``[num_qo_heads, qo_len + kv_len - 1]`` float32, by column - row + qo_len - 1,
        - ``lse`` ``[batch, qo_len, num_qo_heads]``, base 2;

        q, k, v and output of the spec's dtype, ``lse`` of its ``lse_dtype``. Rows
        that keep no key get output 0 and LSE :func:`~prefilltune.workloads.empty_lse`, unless
        they are padding that a spec leaves untouched: what is there stays. Padding is never let
        through. A row with a NaN or Inf among the scores that it sees is NaN.

        Of a packed spec ``main(q, k, v, cu_seqlens_q, cu_seqlens_kv, output, lse)``, with the bias
        before the output:

        - ``q`` and ``output`` ``[total_q, num_qo_heads, head_dim]``,
        - ``k`` and ``v`` ``[total_kv, num_kv_heads, head_dim]``,
        - ``cu_seqlens_q`` and ``cu_seqlens_kv`` ``[batch + 1]`` int32: where the queries and the
          keys of each sequence begin, the first at 0, and where the last one's end, at the totals.
          Others are clamped, and what belongs to no sequence is not written,
        - ``bias`` ``[num_qo_heads, width]`` float32, by distance + width // 2: the last column of a
          sequence is at distance 0 from its last row. A width of twice the longest sequence less 1
          holds all distances; those beyond its ends read what is there,
        - ``lse`` ``[total_q, num_qo_heads]``.
    """
    require_indexable(spec, shape)
    own = renew_defs(_parsed(spec, shape, elementary_of(elementary)))
    if variables := _variables(shape):
        own = own.specialize(dict(zip(own.params[-len(variables) :], variables, strict=True)))
    return tvm.IRModule({"main": own})


def _variables(shape: PrefillShape | SymbolicShape | PackedShape) -> list[tirx.Var]:
    """Sizes that are no numbers, each once."""
    sizes = () if isinstance(shape, PrefillShape) else shape.sizes
    return [*dict.fromkeys(each for each in sizes if isinstance(each, tirx.Var))]


@lru_cache(maxsize=64)
def _parsed(
    spec: PrefillSpec, shape: PrefillShape | SymbolicShape | PackedShape, elementary: Elementary
) -> tirx.PrimFunc:
    """The PrimFunc, with the variables of its shape as its last parameters.

    Parsing it takes a tenth of a second, and one workload is derived in many ways.
    """
    variables = _variables(shape)
    if spec.is_packed and isinstance(shape, PrefillShape):
        shape = PackedShape.filled(shape)
    dtype = spec.dtype
    B, LQ, LKV = shape.batch, shape.qo_len, shape.num_kv
    HQ, HKV, D, G = spec.num_qo_heads, spec.num_kv_heads, spec.head_dim, spec.group_size
    packed, N, W = spec.is_packed, shape.num_offsets, shape.bias_width
    rows, columns = ((LQ,), (LKV,)) if packed else ((B, LQ), (B, LKV))

    def written(layout, sequence, row):
        """Whether there is such a row of the output, and it is not left as it is."""
        everywhere = spec.padding_output == "zero" and not packed
        return everywhere or layout.mask(sequence).no_padding(row)

    def score_of_pair(dot, bias):
        return score(elementary, spec, dot, bias if spec.bias else None)

    @T.prim_func(s_tir=True)
    def main(
        q: T.Buffer((*rows, HQ, D), dtype),  # [batch, qo_len, num_qo_heads, head_dim]
        k: T.Buffer((*columns, HKV, D), dtype),  # [batch, kv_len, num_kv_heads, head_dim]
        v: T.Buffer((*columns, HKV, D), dtype),  # [batch, kv_len, num_kv_heads, head_dim]
        valid_lens: T.Buffer((B,), "int32"),  # [batch], where sequences are padded
        cu_seqlens_q: T.Buffer((N,), "int32"),  # [batch + 1], where they are packed
        cu_seqlens_kv: T.Buffer((N,), "int32"),  # [batch + 1]
        bias: T.Buffer((HQ, W), "float32"),  # [num_qo_heads, qo_len + kv_len - 1]
        output: T.Buffer((*rows, HQ, D), dtype),  # [batch, qo_len, num_qo_heads, head_dim]
        lse: T.Buffer((*rows, HQ), spec.lse_type),  # [batch, qo_len, num_qo_heads]
    ):
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        layout = T.meta_var(layout_of(spec, shape, valid_lens, cu_seqlens_q, cu_seqlens_kv))
        dot = T.sblock_alloc_buffer((B, HQ, LQ, LKV), "float32")
        scores = T.sblock_alloc_buffer((B, HQ, LQ, LKV), "float32")
        row_max = T.sblock_alloc_buffer((B, HQ, LQ), "float32")
        weights = T.sblock_alloc_buffer((B, HQ, LQ, LKV), "float32")
        row_sum = T.sblock_alloc_buffer((B, HQ, LQ), "float32")
        values = T.sblock_alloc_buffer((B, HKV, LKV, D), dtype)
        acc = T.sblock_alloc_buffer((B, HQ, LQ, D), "float32")
        for b, h, i, j, d in T.grid(B, HQ, LQ, LKV, D):
            with T.sblock("dot"):
                vb, vh, vi, vj, vd = T.axis.remap("SSSSR", [b, h, i, j, d])
                with T.init():
                    dot[vb, vh, vi, vj] = T.float32(0)
                dot[vb, vh, vi, vj] = dot[vb, vh, vi, vj] + T.cast(
                    q[layout.query(vb, vi, vh, vd)], "float32"
                ) * T.cast(k[layout.key(vb, vj, vh // G, vd)], "float32")
        for b, h, i, j in T.grid(B, HQ, LQ, LKV):
            with T.sblock("scores"):
                vb, vh, vi, vj = T.axis.remap("SSSS", [b, h, i, j])
                scores[vb, vh, vi, vj] = T.Select(
                    layout.mask(vb).kept(vi, vj),
                    score_of_pair(dot[vb, vh, vi, vj], bias[vh, layout.bias(vb, vi, vj)]),
                    T.float32(MASKED_SCORE),
                )
        for b, h, i, j in T.grid(B, HQ, LQ, LKV):
            with T.sblock("row_max"):
                vb, vh, vi, vj = T.axis.remap("SSSR", [b, h, i, j])
                with T.init():
                    row_max[vb, vh, vi] = T.min_value("float32")
                row_max[vb, vh, vi] = T.max(row_max[vb, vh, vi], scores[vb, vh, vi, vj])
        for b, h, i, j in T.grid(B, HQ, LQ, LKV):
            with T.sblock("weights"):
                vb, vh, vi, vj = T.axis.remap("SSSS", [b, h, i, j])
                weights[vb, vh, vi, vj] = elementary.exp2(
                    scores[vb, vh, vi, vj] - row_max[vb, vh, vi]
                )
        for b, h, i, j in T.grid(B, HQ, LQ, LKV):
            with T.sblock("row_sum"):
                vb, vh, vi, vj = T.axis.remap("SSSR", [b, h, i, j])
                with T.init():
                    row_sum[vb, vh, vi] = T.float32(0)
                row_sum[vb, vh, vi] = row_sum[vb, vh, vi] + weights[vb, vh, vi, vj]
        # Padding may hold NaN, and a weight of zero would let it through: 0 * NaN is NaN.
        for b, h, j, d in T.grid(B, HKV, LKV, D):
            with T.sblock("values"):
                vb, vh, vj, vd = T.axis.remap("SSSS", [b, h, j, d])
                values[vb, vh, vj, vd] = value(
                    layout.mask(vb).shown(vj, LQ - 1), v[layout.key(vb, vj, vh, vd)]
                )
        for b, h, i, d, j in T.grid(B, HQ, LQ, D, LKV):
            with T.sblock("acc"):
                vb, vh, vi, vd, vj = T.axis.remap("SSSSR", [b, h, i, d, j])
                with T.init():
                    acc[vb, vh, vi, vd] = T.float32(0)
                acc[vb, vh, vi, vd] = acc[vb, vh, vi, vd] + weights[vb, vh, vi, vj] * T.cast(
                    values[vb, vh // G, vj, vd], "float32"
                )
        for b, i, h, d in T.grid(B, LQ, HQ, D):
            with T.sblock("output"):
                vb, vi, vh, vd = T.axis.remap("SSSS", [b, i, h, d])
                if written(layout, vb, vi):
                    output[layout.output(vb, vi, vh, vd)] = T.cast(
                        value(
                            layout.mask(vb).row_valid(vi),
                            acc[vb, vh, vi, vd] / row_sum[vb, vh, vi],
                        ),
                        dtype,
                    )
        for b, i, h in T.grid(B, LQ, HQ):
            with T.sblock("lse"):
                vb, vi, vh = T.axis.remap("SSS", [b, i, h])
                if written(layout, vb, vi):
                    lse[layout.output(vb, vi, vh)] = stored_lse(
                        elementary,
                        spec.lse_type,
                        layout.mask(vb).row_valid(vi),
                        row_max[vb, vh, vi],
                        defined_sum(row_sum[vb, vh, vi]),
                    )

    _, _, _, valid_lens, *offsets, bias, _, _ = main.params
    unread = [*((valid_lens,) if packed else offsets), *(() if spec.bias else (bias,))]
    read = [each for each in main.params if each not in unread]
    return tirx.PrimFunc([*read, *variables], main.body, attrs=main.attrs)
