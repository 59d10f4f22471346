"""What every kernel must compute, straight from the definition, in float64.

Nothing here is shared with the TIR descriptions but the spec and the range of an LSE, so that a
mistake in one of them shows as a difference.
"""

from __future__ import annotations

import math

import numpy as np

from .errors import InvalidSpecError
from .lse import lse_range
from .pairs import seen_pairs, written_rows
from .spec import PrefillSpec

#: Largest :func:`max_error` that a correct kernel shows, by the dtype of its tensors: about two
#: (bfloat16, float16) roundings of the result; for float32 the sum over ``kv_len`` terms as well.
TOLERANCE: dict[str, float] = {"float32": 2e-5, "float16": 2e-3, "bfloat16": 1.6e-2}

# What is computed of so many rows stays in a core's cache.
_ROWS_AT_ONCE = 256


def reference_attention(
    spec: PrefillSpec,
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    valid_lens: np.ndarray,
    bias: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Masked attention in float64.

    Parameters
    ----------
    spec : PrefillSpec
        Heads, mask, what becomes of scores, and the dtype of the LSE; that of the rest is not
        looked at.
    query : np.ndarray
        ``[batch, qo_len, num_qo_heads, head_dim]``, any float dtype (``ml_dtypes.bfloat16`` too).
    key, value : np.ndarray
        ``[batch, kv_len, num_kv_heads, head_dim]``. Padding of query, key and value is never
        read: it may hold NaN or Inf.
    valid_lens : np.ndarray
        ``[batch]`` whole numbers; outside of ``[0, qo_len]`` clamped for the queries, outside of
        ``[0, kv_len]`` for the keys.
    bias : np.ndarray, optional
        ``[num_qo_heads, qo_len + kv_len - 1]``, of a spec with a bias: the entry
        ``column - row + qo_len - 1`` is added to the scaled and capped score.

    Returns
    -------
    output : np.ndarray
        ``[batch, qo_len, num_qo_heads, head_dim]`` float64; 0 in rows that keep no key. A row with
        NaN or Inf among the scores that it sees is NaN (all of them -Inf, too), and a value that a
        row does not see adds nothing to it, not even NaN. Rows that a spec leaves untouched are
        NaN: nothing is expected of them (``pairs.written_rows``).
    lse : np.ndarray
        ``[batch, qo_len, num_qo_heads]`` float64, base 2, NaN where the output's scores are; in the
        range of ``lse.lse_range``, and its ``empty`` in rows that keep
        no key; NaN in rows that are left untouched.
    """
    batch, qo_len, num_qo_heads, head_dim = query.shape
    kv_len, num_kv_heads = key.shape[1:3]
    output = np.zeros(query.shape)
    ends = lse_range(spec.lse_type)
    lse = np.full((batch, qo_len, num_qo_heads), ends.empty)
    for b in range(batch):
        (kept,) = seen_pairs(spec, valid_lens[b : b + 1], qo_len, kv_len)
        rows = np.flatnonzero(kept.any(axis=1))
        columns = np.flatnonzero(kept.any(axis=0))
        if not rows.size:
            continue
        k = key[b, columns].astype(np.float64).transpose(1, 2, 0)[:, None]
        v = value[b, columns].astype(np.float64).transpose(1, 0, 2)[:, None]
        for first in range(0, rows.size, _ROWS_AT_ONCE):
            some = rows[first : first + _ROWS_AT_ONCE]
            # Query heads of one group next to each other: [num_kv_heads, group_size, rows, dim].
            q = query[b, some].astype(np.float64).transpose(1, 0, 2)
            q = q.reshape(num_kv_heads, spec.group_size, some.size, head_dim)
            sees = kept[np.ix_(some, columns)]
            with np.errstate(invalid="ignore", divide="ignore"):  # of rows that are NaN
                scores = (q @ k) * spec.scale
                if spec.softcap is not None:
                    scores = spec.softcap * np.tanh(scores / spec.softcap)
                if spec.bias == "relative":
                    added = _relative(bias, some, columns, qo_len)
                    scores += added.reshape(num_kv_heads, spec.group_size, *sees.shape)
                exponents = np.where(sees, scores * math.log2(math.e), -np.inf)
                row_max = exponents.max(axis=-1, keepdims=True)
                weights = np.exp2(exponents - row_max)
                row_sum = weights.sum(axis=-1, keepdims=True)
                result = _weighted(weights, v, sees) / row_sum
                result_lse = np.clip(row_max + np.log2(row_sum), ends.least, ends.most)
            output[b, some] = result.reshape(num_qo_heads, some.size, head_dim).transpose(1, 0, 2)
            lse[b, some] = result_lse.reshape(num_qo_heads, some.size).T
    untouched = ~written_rows(spec, valid_lens, qo_len)
    output[untouched] = lse[untouched] = np.nan
    return output, lse


def reference_packed_attention(
    spec: PrefillSpec,
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    cu_seqlens_q: np.ndarray,
    cu_seqlens_kv: np.ndarray,
    bias: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """:func:`reference_attention` of each sequence by itself, where they lie one behind another.

    Parameters
    ----------
    spec
        As there.
    query : np.ndarray
        ``[total_q, num_qo_heads, head_dim]``.
    key, value : np.ndarray
        ``[total_kv, num_kv_heads, head_dim]``.
    cu_seqlens_q, cu_seqlens_kv : np.ndarray
        ``[batch + 1]`` whole numbers: the first position of each sequence, and the end of the last.
    bias : np.ndarray, optional
        ``[num_qo_heads, width]``: the entry ``distance + width // 2`` is added, where the last
        column of a sequence is at distance 0 from its last row; beyond an end, what is there.

    Returns
    -------
    output : np.ndarray
        ``[total_q, num_qo_heads, head_dim]`` float64.
    lse : np.ndarray
        ``[total_q, num_qo_heads]`` float64.
    """
    output, lse = np.zeros(query.shape), np.zeros(query.shape[:2])
    for b in range(len(cu_seqlens_q) - 1):
        rows, columns = (slice(*each[b : b + 2]) for each in (cu_seqlens_q, cu_seqlens_kv))
        output[rows], lse[rows] = sequence_reference(
            spec, query[rows], key[columns], value[columns], bias
        )
    return output, lse


def sequence_reference(
    spec: PrefillSpec,
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    bias: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Output and LSE of one sequence of :func:`reference_packed_attention`."""
    qo_len, kv_len = len(query), len(key)
    if bias is not None:
        distances = np.arange(-(qo_len - 1), kv_len) - (kv_len - qo_len) + bias.shape[1] // 2
        bias = bias[:, np.clip(distances, 0, bias.shape[1] - 1)]
    all_valid = np.array([max(qo_len, kv_len)])
    (output,), (lse,) = reference_attention(
        spec, query[None], key[None], value[None], all_valid, bias
    )
    return output, lse


def _relative(
    bias: np.ndarray | None, rows: np.ndarray, columns: np.ndarray, qo_len: int
) -> np.ndarray:
    """What is added for each pair, ``[num_qo_heads, rows, columns]`` float64."""
    if bias is None:
        raise InvalidSpecError("a spec with a relative bias needs its tensor: pass bias")
    return bias.astype(np.float64)[:, columns[None, :] - rows[:, None] + (qo_len - 1)]


def _weighted(weights: np.ndarray, v: np.ndarray, sees: np.ndarray) -> np.ndarray:
    """``weights @ v`` where what a row does not see adds nothing, though it be NaN or Inf."""
    if np.isfinite(v).all():
        return weights @ v
    terms = weights[..., None] * v[..., None, :, :]
    return np.where(sees[:, :, None], terms, 0.0).sum(axis=-2)


def max_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest ``|actual - expected| / max(1, |expected|)``; inf where ``actual`` is not finite.

    Parameters
    ----------
    actual : np.ndarray
        Any shape and float dtype.
    expected : np.ndarray
        Of the same shape, finite.

    Examples
    --------
    >>> max_error(np.array([1.5, 8.0]), np.array([1.0, 10.0]))
    0.5
    >>> max_error(np.array([np.nan]), np.array([1.0]))
    inf
    """
    actual = np.asarray(actual, dtype=np.float64)
    if actual.shape != expected.shape:
        raise ValueError(f"shapes {actual.shape} and {expected.shape} differ; compare like to like")
    if not np.isfinite(actual).all():
        return math.inf
    error = np.abs(actual - expected) / np.maximum(1.0, np.abs(expected))
    return float(error.max(initial=0.0))
