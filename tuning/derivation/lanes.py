"""The pass that spreads rows over the lanes that compute them.

A matrix stands in registers as fragments of a few columns, of each of which a lane has some
neighbouring ones. So a lane sums up its own columns, and the lanes are added up once, at the end;
and a factor of a row is there once for each column of a fragment.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tvm import tirx
from tvm.ir import TensorLoad, Var

from ..errors import DerivationError
from .expressions import Buffer, Expr, Load, element, with_loads
from .naming import Names
from .one_pass import OnePass
from .stages import Axis, Stage, load, new_stage

#: Columns of a fragment, and how many of them a lane has.
FRAGMENT_COLUMNS, LANE_COLUMNS = 8, 2

#: The lanes of a row.
LANE = Axis(Var("vlane", "int32"), FRAGMENT_COLUMNS // LANE_COLUMNS)


def require_fragments(columns: int) -> None:
    """Refuse a tile of columns that is not a number of fragments."""
    if columns % FRAGMENT_COLUMNS:
        raise DerivationError(
            f"a tile of {columns} columns is not a number of fragments of {FRAGMENT_COLUMNS}: let "
            "it be a multiple"
        )


def spread(passes: OnePass, names: Names) -> OnePass:
    """``passes`` with sums of lanes, and factors as fragments have them.

    Raises
    ------
    DerivationError
        If a carried value of a row is no sum that starts at 0.
    """
    fragment = Axis(Var("vcolumn", "int32"), FRAGMENT_COLUMNS)
    of_lanes: dict[Buffer, Stage] = {}
    factors: dict[Buffer, Stage] = {}
    for total in passes.closing:
        part = _part(passes, total)
        of_lanes |= {each.buffer: _with(each, LANE) for each in (part, total)}
    for stage in passes.moving:
        if stage.tile is None:
            factors[stage.buffer] = _with(stage, fragment)
    made = of_lanes | factors
    whole = {total.buffer: _whole(made[total.buffer], names) for total in passes.closing}

    def changed(stage: Stage) -> Stage:
        stage = made.get(stage.buffer, stage)

        def at_lane(load: Load) -> Expr:
            if load.source in of_lanes:
                return element(of_lanes[load.source].buffer, (*load.indices, LANE.var))
            if load.source in factors:
                last: Any = stage.indices[-1]
                column = last * LANE_COLUMNS if LANE in stage.axes else last % FRAGMENT_COLUMNS
                return element(factors[load.source].buffer, (*load.indices, column))
            return load

        return replace(stage, value=with_loads(stage.value, at_lane))

    def added_up(load: Load) -> Expr:
        known = whole.get(load.source)
        return load if known is None else element(known.buffer, load.indices)

    after = tuple(replace(s, value=with_loads(s.value, added_up)) for s in passes.after)
    return replace(passes.changed(changed), after=(*whole.values(), *after))


def _part(passes: OnePass, total: Stage) -> Stage:
    """The sum over one tile that ``total`` adds."""
    value: Any = total.value
    start: Any = total.init
    if isinstance(value, tirx.Add) and isinstance(value.b, TensorLoad) and start.value == 0:
        for stage in passes.second:
            if stage.buffer.same_as(value.b.source) and stage.combine is tirx.Add:
                return stage
    raise DerivationError(
        f"{total.name!r} stores {value}, starting with {start}: lanes compute parts of a sum that "
        "starts at 0"
    )


def _with(stage: Stage, axis: Axis) -> Stage:
    """``stage`` over one more axis."""
    kept = (*(each for each in stage.axes if each not in stage.reduced), axis)
    made = new_stage(stage.name, kept, stage.value)
    return replace(stage, axes=(*kept, *stage.reduced), buffer=made.buffer, indices=made.indices)


def _whole(total: Stage, names: Names) -> Stage:
    """The lanes of ``total``, added up."""
    rows = [axis for axis in total.axes if axis is not LANE]
    made = new_stage(names("{stage}_of_lanes", total.name), rows, load(total))
    return replace(made, axes=(*rows, LANE), init=total.init, combine=tirx.Add)
