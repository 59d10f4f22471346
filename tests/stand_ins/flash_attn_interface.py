"""What FlashAttention-3 promises of its forward pass, computed by PyTorch, sequence by sequence.

For tests on machines without a GPU of Hopper's: the names, the options and what becomes of them are
upstream's. Rows of padding are NaN here, where upstream leaves them as memory was.
"""

from __future__ import annotations

import math

import torch


def _flash_attn_forward(
    q,
    k,
    v,
    *,
    cu_seqlens_q=None,
    cu_seqlens_k=None,
    seqused_q=None,
    seqused_k=None,
    max_seqlen_q=None,
    max_seqlen_k=None,
    softmax_scale,
    causal=False,
    window_size_left=-1,
    window_size_right=-1,
    softcap=0.0,
):
    out = torch.full_like(q, math.nan)
    if cu_seqlens_q is not None:
        begins_q, begins_k = cu_seqlens_q[:-1].tolist(), cu_seqlens_k[:-1].tolist()
        lens_q, lens_k = cu_seqlens_q.diff().tolist(), cu_seqlens_k.diff().tolist()
        assert (max(lens_q), max(lens_k)) == (max_seqlen_q, max_seqlen_k)
        flat = (q, k, v, out)
    else:
        batch, length_q, length_k = *q.shape[:2], k.shape[1]
        begins_q, begins_k = ([b * n for b in range(batch)] for n in (length_q, length_k))
        lens_q = [length_q] * batch if seqused_q is None else seqused_q.tolist()
        lens_k = [length_k] * batch if seqused_k is None else seqused_k.tolist()
        flat = tuple(each.flatten(0, 1) for each in (q, k, v, out))
    left, right = (math.inf if each < 0 else each for each in (window_size_left, window_size_right))
    right = 0 if causal else right
    queries, keys, values, outputs = flat
    for begin_q, begin_k, n_q, n_k in zip(begins_q, begins_k, lens_q, lens_k, strict=True):
        rows, columns = slice(begin_q, begin_q + n_q), slice(begin_k, begin_k + n_k)
        group = q.shape[-2] // k.shape[-2]
        query = queries[rows].float()
        key, value = (each[columns].repeat_interleave(group, 1).float() for each in (keys, values))
        scores = torch.einsum("qhd,khd->hqk", query, key) * softmax_scale
        if softcap:
            scores = softcap * (scores / softcap).tanh()
        distance = torch.arange(n_k) - torch.arange(n_q)[:, None] - (n_k - n_q)
        scores.masked_fill_((distance > right) | (distance < -left), -math.inf)
        weights = scores.softmax(-1).nan_to_num(0.0)
        outputs[rows] = torch.einsum("hqk,khd->qhd", weights, value).to(q.dtype)
    return out, None, None, None
