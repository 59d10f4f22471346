"""The step that masks scores: most tiles need no mask.

All rows of a tile see all columns of most tiles. Whether they do is asked once for all the columns
of a lane, which then computes scores with the mask or without it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tvm import tirx
from tvm.ir import Var

from .expressions import Expr, equal
from .intervals import Interval, Intervals, interval
from .lanes import FRAGMENT_COLUMNS, LANE, LANE_COLUMNS, require_fragments
from .nest import Kept, Step
from .stages import Axis, Stage
from .tiling import Place


@dataclass(frozen=True, eq=False)
class SeenByAll:
    """The columns that all rows of a tile see, in variables, and what they are bound to.

    A begin that all rows share is where the tiles of columns begin, and need not be asked.
    """

    intervals: Intervals
    variables: Interval

    def bound(self, place: Place) -> tuple[tuple[Any, Expr], ...]:
        """The variables with their values."""
        rows = self.intervals.seen_by_all(place.row_begin, place.length)
        begin = ((self.variables.begin, place.once(rows.begin)),)
        return (
            *(begin if self.intervals.begin_moves else ()),
            (self.variables.end, place.once(rows.end)),
        )

    def masks(self, stage: Stage) -> bool:
        """Whether ``stage`` selects by the mask."""
        value: Any = stage.value
        if stage.combine is not None or not isinstance(value, tirx.Select):
            return False
        asked, columns = interval(value.condition, self.intervals.column), self.intervals.columns
        return (
            asked is not None
            and equal(asked.begin, columns.begin)
            and equal(asked.end, columns.end)
        )

    def step(self, place: Place, stage: Stage) -> Step:
        """``stage``, which masks, for the columns of a lane at once.

        Raises
        ------
        DerivationError
            If a tile of columns is not a number of fragments.
        """
        require_fragments(place.width)
        fragment = Axis(Var("fragment", "int32"), place.width // FRAGMENT_COLUMNS)
        pair = Axis(Var("pair", "int32"), LANE_COLUMNS)
        parts = (fragment.var * FRAGMENT_COLUMNS, LANE.var * LANE_COLUMNS, pair.var)
        own = replace(place, parts=parts)
        select: Any = stage.value
        asked = select.condition
        if not self.intervals.begin_moves:
            asked = self.intervals.column.var < self.intervals.columns.end
        value = tirx.Select(asked, select.true_value, select.false_value)
        step = own.step(replace(stage, value=value), Kept.SHARED)
        return replace(
            step,
            axes=tuple(LANE if axis is place.column else axis for axis in step.axes),
            unrolled=(fragment, pair),
            everywhere=(self._condition(place), own.expr(select.true_value, inside=True)),
        )

    def _condition(self, place: Place) -> Expr:
        """Whether all rows see all columns of a tile of columns."""
        begin, end = place.tile_begin, self.variables.end
        in_time = begin + place.width <= end
        if self.intervals.begin_moves:
            return tirx.And(begin >= self.variables.begin, in_time)
        return in_time
