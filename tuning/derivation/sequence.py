"""The pass that puts the steps of a tile of columns side by side, where a pipeline can order them.

All are direct children of the loop over tiles of columns: copies of parameters first, the others in
the order of the description.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tvm.ir import Var

from .axes import Roles
from .expressions import depends
from .intervals import Interval, Intervals
from .lanes import FRAGMENT_COLUMNS, LANE, LANE_COLUMNS, require_fragments
from .naming import Names
from .nest import Kept, Nest, Step
from .one_pass import OnePass
from .packing import Packing
from .stages import Axis, Stage
from .tiling import Place, Tiling, kept_in_loop, place_of
from .unmasked import SeenByAll


def side_by_side(
    passes: OnePass,
    roles: Roles,
    intervals: Intervals,
    tiling: Tiling,
    names: Names,
    packing: Packing | None = None,
) -> Nest:
    """The nest of ``passes``, each step of a tile of columns by itself."""
    place = place_of(passes, roles, intervals, tiling, packing)
    seen = SeenByAll(intervals, Interval(Var("full_begin", "int32"), Var("full_end", "int32")))
    begin: Any = place.columns.begin
    tiles: Any = Var("tiles", "int32")
    aligned = place.aligned_begin is not None
    if aligned or intervals.written is not None:
        guard = intervals.guard_of_stored(tiles > 0, aligned=aligned)
        place = replace(place, guard=(intervals.guard, guard))
    number = Axis(passes.tile.var, tiles)
    visited: Any = place.columns.end - begin + (tiling.columns - 1)
    copies_first = sorted(passes.loop, key=lambda stage: not passes.copies(stage))  # stable
    return Nest(
        names("row_tile"),
        place.outer,
        place.row,
        place.row_begin,
        (*place.bound(intervals), *seen.bound(place), (tiles, visited // tiling.columns)),
        passes.tile,
        tiles,
        place.steps(passes.before, Kept.ROWS),
        tuple(_step(place, seen, stage, number) for stage in copies_first),
        tuple(place.step(s, _kept_behind(roles, s)) for s in passes.after),
        # The last rows of a mask whose end moves see the most: begun first, they end in time.
        last_first=intervals.end_moves and not intervals.begin_moves,
        search=place.search,
        only_where=place.some_written(intervals),
        skips=True,
        loaded=place.is_loaded,
    )


def _step(place: Place, seen: SeenByAll, stage: Stage, number: Axis) -> Step:
    if seen.masks(stage):
        step = seen.step(place, stage)
    else:
        step = _own_columns(place, stage).step(stage, _kept(place.passes, place.roles, stage))
    numbered = step.tile is None and any(depends(value, number.var) for value in step.values)
    return replace(step, at=number if numbered else None)


def _own_columns(place: Place, stage: Stage) -> Place:
    """``place`` with the columns of a lane, if ``stage`` reduces those."""
    if LANE not in stage.axes or place.roles.column not in stage.reduced:
        return place
    require_fragments(place.width)
    column = replace(place.column, extent=place.width // FRAGMENT_COLUMNS * LANE_COLUMNS)
    number: Any = column.var
    parts = (
        number // LANE_COLUMNS * FRAGMENT_COLUMNS,
        LANE.var * LANE_COLUMNS,
        number % LANE_COLUMNS,
    )
    return replace(place, column=column, parts=parts)


def _kept(passes: OnePass, roles: Roles, stage: Stage) -> Kept:
    """What the buffer of a stage in the loop is kept for."""
    if passes.copies(stage):
        return Kept.COPIES
    if stage in passes.moving or (stage.tile is not None and LANE in stage.axes):
        return Kept.ROW
    return Kept.CARRIED if stage.tile is not None else kept_in_loop(roles, stage)


def _kept_behind(roles: Roles, stage: Stage) -> Kept:
    """What the buffer of a stage behind the loop is kept for."""
    return Kept.STAGED if len(stage.indices) > len(roles.outer) + 1 else Kept.ROW
