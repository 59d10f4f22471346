"""The relative biases of models, as tensors of the form that kernels take.

A bias adds to a score what depends on the head and on how far its column is from its row. All
functions here give ``[num_qo_heads, qo_len + kv_len - 1]`` float32, whose entry
``column - row + qo_len - 1`` is added. The last row and the last column are at the same position:
where the lengths differ, a column is ``column - row - (kv_len - qo_len)`` positions to the right of
a row.
"""

from __future__ import annotations

import math

import numpy as np

from .errors import InvalidSpecError


def alibi_slopes(num_heads: int) -> np.ndarray:
    """The slope of each head, float32 ``[num_heads]``: of ALiBi, for any number of heads.

    Where it is no power of two, those of the power below come first, and then every other one of
    those of the power above.

    Examples
    --------
    >>> alibi_slopes(8).tolist()[:3]
    [0.5, 0.25, 0.125]
    >>> alibi_slopes(3).tolist()
    [0.0625, 0.00390625, 0.25]
    """
    least = 1 << (num_heads.bit_length() - 1)
    slopes = np.concatenate([_powers(least), _powers(2 * least)[::2]])[:num_heads]
    return slopes.astype(np.float32)


def _powers(num_heads: int) -> np.ndarray:
    return 2.0 ** (-8.0 / num_heads * np.arange(1, num_heads + 1))


def alibi_bias(num_heads: int, qo_len: int, kv_len: int) -> np.ndarray:
    """ALiBi in both directions, as jina-embeddings-v2 has it: minus slope times distance.

    Causal models may take it too: what lies behind a row is masked.

    Examples
    --------
    >>> alibi_bias(8, 2, 3)[0].tolist()
    [-1.0, -0.5, -0.0, -0.5]
    """
    return -alibi_slopes(num_heads)[:, None] * np.abs(_relative(qo_len, kv_len)).astype(np.float32)


def t5_bias(
    table: np.ndarray,
    qo_len: int,
    kv_len: int,
    *,
    bidirectional: bool = True,
    max_distance: int = 128,
) -> np.ndarray:
    """The bias of T5's, UMT5's and MPNet's attention, whose weights are a number a bucket and head.

    Parameters
    ----------
    table : np.ndarray
        ``[num_buckets, num_qo_heads]``: the weight of ``relative_attention_bias``.
    bidirectional : bool
        Whether half of the buckets are for columns to the right of a row, as in encoders; else
        all of these share the bucket of distance 0, as in decoders.
    max_distance : int
        From here on all distances share a bucket.

    Raises
    ------
    InvalidSpecError
        If the table has another form, or ``max_distance`` lies within what has a bucket alone.

    Examples
    --------
    >>> t5_bias(np.arange(8)[:, None], 4, 4)[0].tolist()
    [2.0, 2.0, 1.0, 0.0, 5.0, 6.0, 6.0]
    """
    num_buckets = len(table)
    if table.ndim != 2 or num_buckets < 4 or num_buckets % 4:
        raise InvalidSpecError(
            f"the table has the shape {table.shape}; give the weight of relative_attention_bias, "
            "[num_buckets, num_qo_heads], of a multiple of 4 buckets"
        )
    alone = num_buckets // (4 if bidirectional else 2)
    if max_distance <= alone:
        raise InvalidSpecError(f"max_distance is {max_distance}; it must be above {alone}")
    buckets = _t5_buckets(_relative(qo_len, kv_len), bidirectional, num_buckets, max_distance)
    return np.ascontiguousarray(table[buckets].T, np.float32)


def _relative(qo_len: int, kv_len: int) -> np.ndarray:
    """How many positions the column of each entry lies to the right of its row."""
    return np.arange(qo_len + kv_len - 1) - (kv_len - 1)


def _t5_buckets(
    relative: np.ndarray, bidirectional: bool, num_buckets: int, max_distance: int
) -> np.ndarray:
    """Near distances have a bucket each, farther ones share one the more the farther they are."""
    first = np.zeros_like(relative)
    if bidirectional:
        num_buckets //= 2
        first = np.where(relative > 0, num_buckets, 0)
        distance = np.abs(relative)
    else:
        distance = np.maximum(-relative, 0)
    alone = num_buckets // 2
    # Models compute this in float32, which decides where a distance is at the edge of a bucket.
    octaves = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(alone))
    shared = octaves / np.float32(math.log(max_distance / alone)) * np.float32(num_buckets - alone)
    far = np.minimum(alone + shared.astype(np.int64), num_buckets - 1)
    return first + np.where(distance < alone, distance, far)
