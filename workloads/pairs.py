"""Which rows see which columns, and are written, in NumPy: for the reference, counts and peers.

:mod:`.expressions` says the same in TIR. The two have nothing in common, so that a mistake in one
of them shows as a difference; what a mask may be is added to both. Rows and columns of packed
sequences are numbered as if they were padded on the right.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from .errors import InvalidSpecError
from .spec import PrefillSpec

#: The fields of a spec that are stated here and in the reference; another one would be left out.
_STATED = {
    "num_qo_heads",
    "num_kv_heads",
    "head_dim",
    "dtype",
    "layout",
    "padding",
    "window",
    "sm_scale",
    "softcap",
    "bias",
    "padding_output",
    "lse_dtype",
}


def _require_stated(spec: PrefillSpec) -> None:
    unknown = [each.name for each in dataclasses.fields(spec) if each.name not in _STATED]
    if unknown:
        raise InvalidSpecError(
            f"{', '.join(unknown)} of a spec is not stated in NumPy: state what it means in "
            "workloads/pairs.py or workloads/reference.py, and name it among those that are stated"
        )


def valid_positions(spec: PrefillSpec, valid_lens: np.ndarray, length: int) -> np.ndarray:
    """Which of ``length`` positions are no padding.

    Parameters
    ----------
    valid_lens : np.ndarray
        ``[batch]`` whole numbers; out of range they are clamped.

    Returns
    -------
    np.ndarray
        Bool ``[batch, length]``.

    Raises
    ------
    InvalidSpecError
        If a spec has a field that is not stated here.

    Examples
    --------
    >>> valid_positions(PrefillSpec(1, 1, 64, padding="left"), np.array([2]), 3)
    array([[False,  True,  True]])
    """
    _require_stated(spec)
    count = np.clip(valid_lens, 0, length)[:, None]
    position = np.arange(length)[None, :]
    return position >= length - count if spec.padding == "left" else position < count


def written_rows(spec: PrefillSpec, valid_lens: np.ndarray, qo_len: int) -> np.ndarray:
    """Which rows of output and LSE are written; the others stay as they were.

    Parameters
    ----------
    valid_lens : np.ndarray
        ``[batch]`` whole numbers; out of range they are clamped.

    Returns
    -------
    np.ndarray
        Bool ``[batch, qo_len]``.

    Raises
    ------
    InvalidSpecError
        If a spec has a field that is not stated here.

    Examples
    --------
    >>> written_rows(PrefillSpec(1, 1, 64, padding_output="untouched"), np.array([2]), 3)
    array([[ True,  True, False]])
    """
    rows = valid_positions(spec, valid_lens, qo_len)
    left_out = spec.is_packed or spec.padding_output == "untouched"
    return rows if left_out else np.ones_like(rows)


def columns(
    spec: PrefillSpec, valid_lens: np.ndarray, qo_len: int, kv_len: int
) -> tuple[np.ndarray, np.ndarray]:
    """The key columns that a row sees unless it is padding: from the first to before the second.

    Parameters
    ----------
    valid_lens : np.ndarray
        ``[batch]`` whole numbers; out of range they are clamped.

    Returns
    -------
    tuple[np.ndarray, np.ndarray]
        Whole numbers ``[batch, qo_len]``, or ``[batch, 1]`` where they are those of every row.

    Raises
    ------
    InvalidSpecError
        If a spec has a field that is not stated here.
    """
    _require_stated(spec)
    lens = np.asarray(valid_lens, np.int64)[:, None]
    keys, queries = np.clip(lens, 0, kv_len), np.clip(lens, 0, qo_len)
    if spec.padding == "left":
        begin = kv_len - keys
        own = np.arange(qo_len)[None, :] + (kv_len - qo_len)  # the last row's is the last column
    else:
        begin = np.zeros_like(keys)
        own = np.arange(qo_len)[None, :] + (keys - queries)  # the last valid row's the last valid
    end = begin + keys
    left, right = spec.window
    if right is not None:
        end = np.minimum(end, own + right + 1)
    if left is not None:
        begin = np.maximum(begin, own - left)
    return begin, np.maximum(begin, end)


def seen_columns(
    spec: PrefillSpec, valid_lens: np.ndarray, qo_len: int, kv_len: int
) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`columns`, both ``[batch, qo_len]``; none for a row of padding."""
    begin, end = columns(spec, valid_lens, qo_len, kv_len)
    rows = valid_positions(spec, valid_lens, qo_len)
    return np.broadcast_to(begin, rows.shape), np.where(rows, end, begin)


def seen_keys(spec: PrefillSpec, valid_lens: np.ndarray, qo_len: int, kv_len: int) -> np.ndarray:
    """Which columns a row sees unless it is padding, bool ``[batch, 1 or qo_len, kv_len]``."""
    begin, end = columns(spec, valid_lens, qo_len, kv_len)
    column = np.arange(kv_len)
    return (column >= begin[..., None]) & (column < end[..., None])


def seen_pairs(spec: PrefillSpec, valid_lens: np.ndarray, qo_len: int, kv_len: int) -> np.ndarray:
    """Which rows see which columns, bool ``[batch, qo_len, kv_len]``."""
    rows = valid_positions(spec, valid_lens, qo_len)
    return rows[..., None] & seen_keys(spec, valid_lens, qo_len, kv_len)
