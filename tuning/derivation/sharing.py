"""Neighbouring points of an axis outside that share a tile of rows.

Where such points read the same columns, as the heads of a group read one head's keys, a tile may
hold each row of several points, side by side: few rows fill it, and its columns are read once for
all of these points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.ir import Range, Var
from tvm.sym import Analyzer

from ..errors import DerivationError
from .axes import Roles
from .expressions import Expr, depends, loads, substituted
from .intervals import Intervals
from .stages import Axis, Stage

_ZERO = tirx.const(0, "int32")


@dataclass(frozen=True, eq=False)
class Sharing:
    """Which points share a tile: ``count`` of the last axis outside, one behind another.

    Parameters
    ----------
    axis : Axis
        That of the description.
    groups : Axis
        The loop over those that share a tile, in its place.
    count : int
        How many do. Row ``r`` of a tile is row ``r // count`` of point ``r % count`` of a group.
    """

    axis: Axis
    groups: Axis
    count: int

    def point(self, row: Any) -> Any:
        """The point that a row of a tile is of."""
        return self._first + row % self.count

    def for_all(self, expr: Expr) -> Expr | None:
        """``expr``, which is the same for all points of a group; None if it is not."""
        analyzer, other = Analyzer(), Var("other", "int32")
        analyzer.bind(other, Range(_ZERO, tirx.const(self.count, "int32")))
        at_first, elsewhere = (
            analyzer.simplify(substituted(expr, {self.axis.var: self._first + each}))
            for each in (0, other)
        )
        return at_first if analyzer.can_prove_equal(at_first, elsewhere) else None

    @property
    def _first(self) -> Any:
        group: Any = self.groups.var
        return group * self.count


def find_sharing(
    stages: Sequence[Stage], roles: Roles, intervals: Intervals, count: int, rows: int
) -> Sharing | None:
    """How ``count`` neighbours share tiles of ``rows`` rows; None of one.

    Raises
    ------
    DerivationError
        If they do not divide the rows or the axis, see other columns, or read these elsewhere.
    """
    if count == 1:
        return None
    axis = roles.outer[-1]
    name = axis.var.name
    points: Any = tirx.convert(axis.extent)
    for what, extent in (("rows", tirx.const(rows, "int32")), (name, points)):
        if not Analyzer().can_prove_equal(extent % count, _ZERO):
            raise DerivationError(
                f"{count} neighbours cannot share a tile: {extent} {what} are no multiple of it; "
                f"choose a number that divides both the rows of a tile and {name}"
            )
    seen = (intervals.columns.begin, intervals.columns.end, intervals.guard)
    if any(depends(each, axis.var) for each in seen):
        raise DerivationError(
            f"neighbours of {name} see other columns: none may share a tile; let each have its own"
        )
    groups = Analyzer().simplify(points // count)
    sharing = Sharing(axis, Axis(Var(f"{name}g", "int32"), groups), count)
    for stage in stages:
        for index in _of_columns(stage, roles, stages):
            if depends(index, axis.var) and sharing.for_all(index) is None:
                raise DerivationError(
                    f"{stage.name!r} reads at {index}, which is not the same for {count} "
                    f"neighbours of {name}: let as many share a tile as read the same columns"
                )
    return sharing


def _of_columns(stage: Stage, roles: Roles, stages: Sequence[Stage]) -> list[Expr]:
    """Where a stage without rows reads parameters."""
    if roles.row in stage.axes:
        return []
    made = {each.buffer for each in stages}
    read = (load for expr in stage.exprs for load in loads(expr))
    return [index for load in read if load.source not in made for index in load.indices]
