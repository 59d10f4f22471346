"""The expressions that the description of masked attention is built from.

``score`` turns a dot product into the exponent of two of the softmax, ``keep`` says which
(row, column) pairs take part, ``value`` what a key position adds; ``stored_lse`` is what a row
gives for its maximum and its sum. A mask is an interval of rows and, for each row, an interval of
columns whose two ends never move left from one row to the next: so the range of columns for a tile
of rows follows from what is said of one row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from .elementary import Elementary
from .lse import lse_range
from .spec import PrefillSpec

#: A TIR expression or a Python int.
Expr = Any

#: Half-open ``(begin, end)``.
Interval = tuple[Expr, Expr]

#: Score of a pair that the mask drops: its weight is exactly 0, whatever the maximum of its row.
MASKED_SCORE = -math.inf

#: What a running row maximum starts at: far below the score of any pair that is kept, and so far
#: above the lowest float32 that its differences with scores of either sign are finite.
MAX_INIT = -1.0e37


@dataclass(frozen=True)
class Mask:
    """An interval mask.

    Parameters
    ----------
    rows : Callable[[Expr, Expr], Interval]
        ``(valid_len, qo_len)`` to the query rows that are no padding.
    columns : Callable[[Expr, Expr, Expr, Expr], Interval]
        ``(row, valid_len, qo_len, kv_len)`` to the key columns that ``row`` may see; both ends
        lie in ``[0, kv_len]`` for every row and never decrease with ``row``.
    """

    rows: Callable[[Expr, Expr], Interval]
    columns: Callable[[Expr, Expr, Expr, Expr], Interval]


@dataclass(frozen=True)
class SequenceMask:
    """A mask on a sequence; what a description asks of it.

    Parameters
    ----------
    mode : Mask
        Which mask.
    valid_len : Expr
        Positions of the sequence that are no padding; None of a packed one.
    qo_len, kv_len : Expr
        Lengths of its queries and keys, padding included.
    """

    mode: Mask
    valid_len: Expr
    qo_len: Expr
    kv_len: Expr

    @property
    def rows(self) -> Interval:
        """The query rows that are no padding."""
        return self.mode.rows(self.valid_len, self.qo_len)

    def columns(self, row: Expr) -> Interval:
        """The key columns that ``row`` may see."""
        return self.mode.columns(row, self.valid_len, self.qo_len, self.kv_len)

    def no_padding(self, row: Expr) -> Expr:
        """Whether ``row`` is no padding."""
        return keep(self.rows, row)

    def row_valid(self, row: Expr) -> Expr:
        """Whether ``row`` is no padding and sees a key."""
        begin, end = self.columns(row)
        return tirx.all(self.no_padding(row), begin < end)

    def kept(self, row: Expr, column: Expr) -> Expr:
        """Whether ``row`` may see ``column``."""
        return keep(self.columns(row), column)

    def shown(self, column: Expr, last_row: Expr) -> Expr:
        """Whether some row may see ``column``: the ends never move left from row to row."""
        begin, _ = self.columns(0)
        _, end = self.columns(last_row)
        return keep((begin, end), column)


def clamp(value: Expr, low: Expr, high: Expr) -> Expr:
    """``value``, or the end that it is beyond."""
    return tirx.max(tirx.min(value, high), low)


def _int32(value: int) -> Expr:
    return tirx.const(value, "int32")


def mask_of(spec: PrefillSpec) -> Mask:
    """The mask of a spec: its padding and its window, aligned at the ends of what is no padding.

    Of a packed spec, where none is, lengths are those of a sequence.
    """
    left, right = spec.window

    def rows(valid_len: Expr, qo_len: Expr) -> Interval:
        if spec.is_packed:
            return _int32(0), qo_len
        if spec.padding == "left":
            return clamp(qo_len - valid_len, 0, qo_len), qo_len
        return _int32(0), clamp(valid_len, 0, qo_len)

    def columns(row: Expr, valid_len: Expr, qo_len: Expr, kv_len: Expr) -> Interval:
        begin: Expr = _int32(0)
        end: Expr = kv_len
        if spec.is_packed:
            ahead = kv_len - qo_len
        elif spec.padding == "left":
            begin, ahead = clamp(kv_len - valid_len, 0, kv_len), kv_len - qo_len
        else:
            end = clamp(valid_len, 0, kv_len)
            same = not isinstance(qo_len, tirx.Var) and qo_len == kv_len
            ahead = 0 if same else end - clamp(valid_len, 0, qo_len)
        last = end
        if right is not None:
            end = clamp(row + (ahead + (right + 1)), 0, last)
        if left is not None:
            begin = tirx.max(clamp(row + (ahead - left), 0, last), begin)
        return begin, end

    return Mask(rows, columns)


def score(elementary: Elementary, spec: PrefillSpec, dot: Expr, bias: Expr = None) -> Expr:
    """The exponent of two that a dot product of query and key stands for, float32.

    Parameters
    ----------
    dot : Expr
        Query times key, float32.
    bias : Expr, optional
        What a spec with a bias adds for the pair, float32.
    """
    exponent: Expr
    log2_e = math.log2(math.e)
    if spec.softcap is None:
        exponent = dot * _float32(spec.scale * log2_e)
    else:
        capped = elementary.tanh(dot * _float32(spec.scale / spec.softcap))
        exponent = capped * _float32(spec.softcap * log2_e)
    return exponent if bias is None else exponent + bias * _float32(log2_e)


def keep(columns: Interval, column: Expr) -> Expr:
    """Whether ``column`` lies in ``columns``, bool."""
    begin, end = columns
    if isinstance(begin, tirx.IntImm) and begin.value == 0:
        return column < end
    return tirx.all(column >= begin, column < end)


def value(valid: Expr, element: Expr) -> Expr:
    """What a key position adds: ``element``, or 0 where it is padding (which may hold NaN)."""
    return tirx.Select(valid, element, tirx.const(0, element.ty.dtype))


def stored_lse(elementary: Elementary, dtype: str, valid: Expr, largest: Expr, total: Expr) -> Expr:
    """The LSE of a row in ``dtype``: in range, or NaN where ``total`` is.

    Parameters
    ----------
    valid : Expr
        Whether the row is no padding and sees a key, bool.
    largest, total : Expr
        Its maximum and the sum of its weights relative to that, float32.
    """
    ends = lse_range(dtype)
    lse: Expr = largest + elementary.log2(total)
    if dtype == "float16":  # of the others, no score reaches the ends
        lse = tirx.max(tirx.min(lse, _float32(ends.most)), _float32(ends.least))
        lse = or_nan(total > _float32(0.0), lse)  # which minima and maxima drop
    return tirx.Cast(dtype, tirx.Select(valid, lse, _float32(ends.empty)))


def or_nan(condition: Expr, number: Expr) -> Expr:
    """A float32 where ``condition`` holds, NaN elsewhere.

    Added, not selected: a choice of what is read from memory becomes a branch on GPUs.
    """
    return number + tirx.Select(condition, _float32(0.0), _float32(math.nan))


def defined_sum(total: Expr) -> Expr:
    """The sum of a row's weights; NaN where it is 0, all scores being -Inf, as of no softmax."""
    return or_nan(total > _float32(0.0), total)


def _float32(value: float) -> Expr:
    return tirx.const(value, "float32")
