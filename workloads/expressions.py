"""The three expressions that every description of masked attention is built from.

``score`` turns a dot product into the exponent of two of the softmax, ``keep`` says which
(row, column) pairs take part, ``value`` what a key position adds. A mask is an interval of rows
and, for each row, an interval of columns whose two ends never move left from one row to the next:
the same two functions give the predicate for one pair and the range of columns for a tile of rows,
so a new mask is one entry of :data:`MASKS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from .spec import PrefillSpec

#: A TIR expression or a Python int.
Expr = Any

#: Half-open ``(begin, end)``.
Interval = tuple[Expr, Expr]

#: Score of a pair that the mask drops: below :data:`MAX_INIT` by more than any exponent of two.
MASKED_SCORE = -1.0e38

#: Where a running row maximum starts: a row that still has it has seen no key.
MAX_INIT = -1.0e30


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


def _clamp(value: Expr, low: Expr, high: Expr) -> Expr:
    return tirx.max(tirx.min(value, high), low)


def _int32(value: int) -> Expr:
    return tirx.const(value, "int32")


MASKS = {
    "padded": Mask(
        rows=lambda valid_len, qo_len: (_int32(0), _clamp(valid_len, 0, qo_len)),
        columns=lambda row, valid_len, qo_len, kv_len: (_int32(0), _clamp(valid_len, 0, kv_len)),
    ),
    # The last `valid_len` keys and queries are aligned at their ends, as in TVM's own kernel.
    "causal_padded_left": Mask(
        rows=lambda valid_len, qo_len: (_clamp(qo_len - valid_len, 0, qo_len), qo_len),
        columns=lambda row, valid_len, qo_len, kv_len: (
            _clamp(kv_len - valid_len, 0, kv_len),
            _clamp(row + (kv_len - qo_len + 1), 0, kv_len),
        ),
    ),
}


def score(spec: PrefillSpec, dot: Expr) -> Expr:
    """The exponent of two that a dot product of query and key stands for, float32."""
    return dot * tirx.const(spec.scale * math.log2(math.e), "float32")


def keep(columns: Interval, column: Expr) -> Expr:
    """Whether ``column`` lies in ``columns``, bool."""
    begin, end = columns
    if isinstance(begin, tirx.IntImm) and begin.value == 0:
        return column < end
    return tirx.all(column >= begin, column < end)


def value(valid: Expr, element: Expr) -> Expr:
    """What a key position adds: ``element``, or 0 where it is padding (which may hold NaN)."""
    return tirx.Select(valid, element, tirx.const(0, element.ty.dtype))
