"""The pass that takes the range of columns of a tile of rows from the mask.

The mask is read from the description. A summand of the anchor that is a constant outside of a
condition says which columns a row may see; outputs that are constants outside of a condition say
which rows see any, and those that are stored under a condition which rows are written. Conditions
compare the column, or the row, with the ends of an interval. The ends of a row's columns never move
left from one row to the next, so that a tile of rows sees no column before the begin of its first
row and none from the end of its last valid row on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.ir import Range, TensorLoad, Var
from tvm.sym import Analyzer

from ..errors import DerivationError
from .axes import Roles
from .expressions import (
    Expr,
    conjuncts,
    depends,
    equal,
    loads,
    same_value,
    substituted,
    with_equal,
)
from .stages import Axis, Description

_TRUE = tirx.const(True, "bool")


@dataclass(frozen=True, eq=False)
class Interval:
    """Half-open."""

    begin: Expr
    end: Expr


@dataclass(frozen=True, eq=False)
class Intervals:
    """The mask of a description.

    Parameters
    ----------
    row, column : Axis
        The axes that it is about.
    rows : Interval
        The rows that may see a column.
    columns : Interval
        What a row sees; depends on the row.
    guard : Expr
        Which elements of the outputs are no constants: those of rows that see a column.
    written : Interval, optional
        The rows that outputs are stored for, if not all.
    """

    row: Axis
    column: Axis
    rows: Interval
    columns: Interval
    guard: Expr
    written: Interval | None = None

    def columns_of(self, row_begin: Expr, rows: int) -> Interval:
        """The columns that any valid one of ``rows`` rows may see; empty for a tile of padding."""
        row_end: Any = tirx.min(row_begin + rows, self.rows.end)
        begin = self._at(self.columns.begin, row_begin)
        end = self._at(self.columns.end, row_end - 1)
        some_row = _meets(row_begin, rows, self.rows)
        return Interval(begin, tirx.Select(some_row, end, begin))

    def some_written(self, row_begin: Expr, rows: int) -> Expr | None:
        """Whether outputs are stored for any of ``rows`` rows; None if for all."""
        return None if self.written is None else _meets(row_begin, rows, self.written)

    def seen_by_all(self, row_begin: Expr, rows: int) -> Interval:
        """The columns that every valid one of ``rows`` rows sees."""
        row_end: Any = tirx.min(row_begin + rows, self.rows.end)
        begin = self._at(self.columns.begin, row_end - 1)
        end = self._at(self.columns.end, tirx.max(row_begin, self.rows.begin))
        return Interval(begin, end)

    @property
    def rows_begin_later(self) -> bool:
        """Whether the first row that may see a column may be another than the first of all."""
        first = self.rows.begin
        return not isinstance(first, tirx.IntImm) and _not_below_0(first)

    def guard_of_stored(self, some_column: Expr, *, aligned: bool) -> Expr:
        """The guard of those rows of a tile that outputs are stored for.

        What holds for all of them need not be asked of each, nor selected by for each element.

        Parameters
        ----------
        some_column : Expr
            Whether the tile has any.
        aligned : bool
            Whether a tile with columns begins with the first row that may see one, or later.
        """
        row, sees_some = self.row.var, self.columns.begin < self.columns.end
        known = [row >= self.rows.begin] if aligned else []
        if same_value(self.rows.end, self.row.extent):
            known.append(row < self.rows.end)
        if self.written is not None:
            known += [row >= self.written.begin, row < self.written.end]
        if not depends(sees_some, row) or self._each_sees_some:
            known.append(sees_some)
        asked = [
            each for each in conjuncts(self.guard) if not any(equal(each, some) for some in known)
        ]
        return tirx.all(some_column, *asked)

    @property
    def _each_sees_some(self) -> bool:
        """Whether every row that may see a column does; not if unknown."""
        numbers = first, further, after = [
            Var(name, "int32") for name in ("first", "further", "after")
        ]
        end, zero = Var("end", "int32"), tirx.const(0, "int32")
        begin: Any = self.rows.begin if isinstance(self.rows.begin, tirx.IntImm) else first
        at = {self.row.var: begin + further, end: begin + further + 1 + after}

        def known(expr: Expr) -> Expr:
            expr = expr if begin is not first else with_equal(expr, self.rows.begin, first)
            return substituted(with_equal(expr, self.rows.end, end), at)

        columns = Interval(known(self.columns.begin), known(self.columns.end))
        if any(loads(each) for each in (columns.begin, columns.end)):
            return False
        analyzer = Analyzer()
        for number in numbers:
            analyzer.bind(number, Range(zero, self.row.extent))
        return analyzer.can_prove(columns.begin < columns.end)

    @property
    def begin_moves(self) -> bool:
        """Whether columns begin elsewhere in another row."""
        return depends(self.columns.begin, self.row.var)

    @property
    def end_moves(self) -> bool:
        """Whether columns end elsewhere in another row."""
        return depends(self.columns.end, self.row.var)

    def always(self, condition: Expr) -> bool:
        """Whether ``condition`` holds for every column that some row sees."""
        asked = interval(condition, self.column)
        return (
            asked is not None
            and same_value(asked.begin, self._at(self.columns.begin, 0))
            and same_value(asked.end, self._at(self.columns.end, self.row.extent - 1))
        )

    def _at(self, end: Expr, row: Expr) -> Expr:
        return substituted(end, {self.row.var: row})


def find_intervals(description: Description, roles: Roles) -> Intervals:
    """The mask of a unified description.

    Raises
    ------
    DerivationError
        If a condition is no interval, an end may move left, or outputs differ in their rows.
    """
    chosen = _choice(description, roles.anchor.value)
    if chosen is None or float(chosen.false_value) != -math.inf:
        raise DerivationError(
            f"{roles.anchor.name!r} has no mask: select -inf where the column is at or beyond the "
            "end of what there is, so that a tile that reaches beyond it is right"
        )
    columns = interval(chosen.condition, roles.column)
    if columns is None:
        raise DerivationError(
            f"the mask in {roles.anchor.name!r} is no interval of columns: compare the column with "
            "its begin (>=) and its end (<), and nothing else"
        )
    if not (_not_below_0(columns.begin) and _not_above(columns.end, roles.column.extent)):
        raise DerivationError(
            f"the mask in {roles.anchor.name!r} keeps the columns from {columns.begin} to "
            f"{columns.end}, which may lie outside of those that there are: clamp both ends to 0 "
            f"and {roles.column.extent}"
        )
    for end in (columns.begin, columns.end):
        if not never_falls(end, roles.row.var):
            raise DerivationError(
                f"the mask in {roles.anchor.name!r} has the end {end}, which may move left from "
                "one row to the next: build it of sums, minima and maxima of the row"
            )
    guard = guard_of(description)
    some_column = columns.begin < columns.end
    if not (_true(some_column) or any(same_value(e, some_column) for e in conjuncts(guard))):
        raise DerivationError(
            f"outputs are computed where {guard}: let that ask for {some_column}, since a row that "
            "sees no column carries nothing that can be computed with"
        )
    rows = [each for each in conjuncts(guard) if _side(each, roles.row.var)]
    valid = interval(_all(rows), roles.row)
    assert valid is not None
    return Intervals(
        roles.row, roles.column, valid, columns, guard, _written(description, roles.row)
    )


def _written(description: Description, row: Axis) -> Interval | None:
    outputs = [stage for stage in description.stages if stage.is_output]
    conditions = [_TRUE if each.where is None else each.where for each in outputs]
    for stage, condition in zip(outputs, conditions, strict=True):
        if not equal(condition, conditions[0]):
            raise DerivationError(
                f"{stage.name!r} is stored where {condition}, and {outputs[0].name!r} where "
                f"{conditions[0]}: outputs are stored under the same condition"
            )
    if _true(conditions[0]):
        return None
    rows = interval(conditions[0], row)
    if rows is None:
        raise DerivationError(
            f"{outputs[0].name!r} is stored where {conditions[0]}, which is no interval of rows: "
            "compare the row with its begin (>=) and its end (<), and nothing else"
        )
    return rows


def _meets(begin: Any, count: int, interval: Interval) -> Expr:
    """Whether any of ``count`` rows lies in ``interval``."""
    return tirx.all(begin < interval.end, begin + count > interval.begin)


def guard_of(description: Description) -> Expr:
    """Which elements of the outputs are no constants.

    Raises
    ------
    DerivationError
        If outputs do not agree.
    """
    outputs = [stage for stage in description.stages if stage.is_output]
    choices = [_choice(description, stage.value) for stage in outputs]
    guards = [_TRUE if choice is None else choice.condition for choice in choices]
    for stage, guard in zip(outputs, guards, strict=True):
        if not equal(guard, guards[0]):
            raise DerivationError(
                f"{stage.name!r} is computed where {guard}, and {outputs[0].name!r} where "
                f"{guards[0]}: outputs are selected by the same condition"
            )
    return guards[0]


def interval(condition: Expr, axis: Axis) -> Interval | None:
    """The interval of ``axis`` in which ``condition`` holds; None if it is none."""
    begin: Expr = tirx.const(0, "int32")
    end: Expr = axis.extent
    for each in conjuncts(condition):
        side = _side(each, axis.var)
        if side == "begin":
            begin = each.b
        elif side == "end":
            end = each.b
        elif not _true(each):
            return None
    return Interval(begin, end)


def never_falls(expr: Expr, var: Var) -> bool:
    """Whether ``expr``, by its form, is never less for a greater ``var``.

    Examples
    --------
    >>> row = Var("row", "int32")
    >>> never_falls(tirx.min(row + 3, 7), row), never_falls(7 - row, row)
    (True, False)
    """
    if not depends(expr, var):
        return True
    if isinstance(expr, tirx.Add | tirx.Min | tirx.Max):
        return never_falls(expr.a, var) and never_falls(expr.b, var)
    if isinstance(expr, tirx.Sub):
        return never_falls(expr.a, var) and not depends(expr.b, var)
    return isinstance(expr, Var)


def _choice(description: Description, expr: Any) -> Any:
    """The choice between ``expr`` and a constant; None if there is none."""
    while isinstance(expr, tirx.Cast):
        expr = expr.value
    if isinstance(expr, tirx.Select) and isinstance(expr.false_value, tirx.FloatImm):
        return expr
    if isinstance(expr, TensorLoad):
        stage = description.stage_of(expr.source)
        if stage is not None and not stage.reduced:
            return _choice(description, stage.value)
    return None


def _not_below_0(expr: Any) -> bool:
    if isinstance(expr, tirx.Max):
        return _not_below_0(expr.a) or _not_below_0(expr.b)
    if isinstance(expr, tirx.Min):
        return _not_below_0(expr.a) and _not_below_0(expr.b)
    return isinstance(expr, tirx.IntImm) and expr.value >= 0


def _not_above(expr: Any, extent: Expr) -> bool:
    if isinstance(expr, tirx.Min):
        return _not_above(expr.a, extent) or _not_above(expr.b, extent)
    if isinstance(expr, tirx.Max):
        return _not_above(expr.a, extent) and _not_above(expr.b, extent)
    if isinstance(expr, tirx.Sub) and _not_below_0(expr.b):
        return _not_above(expr.a, extent)
    if isinstance(expr, tirx.IntImm):
        return expr.value <= (extent if isinstance(extent, int) else 0)
    return same_value(expr, extent)


def _side(comparison: Expr, var: Var) -> str | None:
    """Which end of an interval of ``var`` it gives."""
    sides = {tirx.GE: "begin", tirx.LT: "end"}
    side = sides.get(type(comparison))
    if side and comparison.a.same_as(var) and not depends(comparison.b, var):
        return side
    return None


def _true(condition: Expr) -> bool:
    return isinstance(condition, tirx.IntImm) and bool(condition.value)


def _all(conditions: list[Expr]) -> Expr:
    return tirx.all(*conditions) if conditions else _TRUE
