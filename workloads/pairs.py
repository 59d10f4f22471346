"""Which query rows see which key columns, in NumPy: what the reference, counts and peers share.

:mod:`.expressions` says the same in TIR. The two have nothing in common, so that a mistake in one
of them shows as a difference; a mask is added to both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .errors import InvalidSpecError


@dataclass(frozen=True)
class _Mask:
    pads_left: bool
    causal: bool


_MASKS = {
    "padded": _Mask(pads_left=False, causal=False),
    "causal_padded_left": _Mask(pads_left=True, causal=True),
}


def _mask(mask_mode: str) -> _Mask:
    if mask_mode not in _MASKS:
        raise InvalidSpecError(
            f"mask mode {mask_mode!r} is not stated in NumPy; state it in workloads/pairs.py, or "
            f"choose {', '.join(_MASKS)}"
        )
    return _MASKS[mask_mode]


def valid_positions(mask_mode: str, valid_lens: np.ndarray, length: int) -> np.ndarray:
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
        If the mask is unknown.

    Examples
    --------
    >>> valid_positions("causal_padded_left", np.array([2]), 3)
    array([[False,  True,  True]])
    """
    count = np.clip(valid_lens, 0, length)[:, None]
    position = np.arange(length)[None, :]
    return position >= length - count if _mask(mask_mode).pads_left else position < count


def columns(
    mask_mode: str, valid_lens: np.ndarray, qo_len: int, kv_len: int
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
        If the mask is unknown.
    """
    mask = _mask(mask_mode)
    count = np.clip(np.asarray(valid_lens, np.int64), 0, kv_len)[:, None]
    begin = kv_len - count if mask.pads_left else np.zeros_like(count)
    end = begin + count
    if mask.causal:  # aligned at the ends
        end = np.minimum(end, np.arange(qo_len)[None, :] + (kv_len - qo_len + 1))
    return begin, np.maximum(begin, end)


def seen_columns(
    mask_mode: str, valid_lens: np.ndarray, qo_len: int, kv_len: int
) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`columns`, both ``[batch, qo_len]``; none for a row of padding."""
    begin, end = columns(mask_mode, valid_lens, qo_len, kv_len)
    rows = valid_positions(mask_mode, valid_lens, qo_len)
    return np.broadcast_to(begin, rows.shape), np.where(rows, end, begin)


def seen_keys(mask_mode: str, valid_lens: np.ndarray, qo_len: int, kv_len: int) -> np.ndarray:
    """Which columns a row sees unless it is padding, bool ``[batch, 1 or qo_len, kv_len]``."""
    begin, end = columns(mask_mode, valid_lens, qo_len, kv_len)
    column = np.arange(kv_len)
    return (column >= begin[..., None]) & (column < end[..., None])


def seen_pairs(mask_mode: str, valid_lens: np.ndarray, qo_len: int, kv_len: int) -> np.ndarray:
    """Which rows see which columns, bool ``[batch, qo_len, kv_len]``."""
    rows = valid_positions(mask_mode, valid_lens, qo_len)
    return rows[..., None] & seen_keys(mask_mode, valid_lens, qo_len, kv_len)
