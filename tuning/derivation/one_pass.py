"""The pass that makes reductions over all columns reductions over one tile, carried to the next.

What is computed for a tile of columns has three parts: up to what the anchor is reduced to; the
anchor moves; and everything that reads the anchor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tvm import tirx
from tvm.ir import TensorLoad

from ..errors import DerivationError
from .axes import Roles, over, reads_through
from .expressions import Expr, equal
from .naming import Names
from .repair import repair
from .stages import Axis, Description, Stage, load, new_stage


@dataclass(frozen=True, eq=False)
class OnePass:
    """The stages of a description by where they are computed.

    Parameters
    ----------
    tile : Axis
        The tiles of columns.
    before : tuple of Stage
        Once for a tile of rows: what no column has a part in.
    first, moving, second : tuple of Stage
        For each tile of columns: up to what the anchor is reduced to; the anchor's way on; what
        reads the anchor.
    after : tuple of Stage
        Once, at the end: what outputs are made of.
    """

    tile: Axis
    before: tuple[Stage, ...]
    first: tuple[Stage, ...]
    moving: tuple[Stage, ...]
    second: tuple[Stage, ...]
    after: tuple[Stage, ...]

    @property
    def loop(self) -> tuple[Stage, ...]:
        """What is computed for each tile of columns."""
        return (*self.first, *self.moving, *self.second)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """All, in their order."""
        return (*self.before, *self.loop, *self.after)

    @property
    def closing(self) -> tuple[Stage, ...]:
        """Of what reads the anchor, the carried values of a row alone."""
        fewest = min(len(stage.axes) for stage in self.moving)
        return tuple(s for s in self.second if s.tile is not None and len(s.axes) == fewest)

    def copies(self, stage: Stage) -> bool:
        """Whether ``stage`` is a copy of a tile of a parameter."""
        value = stage.value
        while isinstance(value, tirx.Cast):
            value = value.value
        made = (each.buffer for each in self.stages)
        return isinstance(value, TensorLoad) and not any(map(value.source.same_as, made))

    def changed(self, change: Callable[[Stage], Stage]) -> OnePass:
        """The same with ``change(stage)`` in place of every stage."""
        places = ("before", "first", "moving", "second", "after")
        return replace(self, **{each: tuple(map(change, getattr(self, each))) for each in places})


def one_pass(
    description: Description, roles: Roles, tile: Axis, start: Expr | None, names: Names
) -> OnePass:
    """``description`` with one pass over the columns.

    Parameters
    ----------
    tile : Axis
        The tiles of columns.
    start : Expr, optional
        What the anchor starts with, if not with what the description says.

    Raises
    ------
    DerivationError
        If what a reduction has summed up cannot be put right.
    """
    at = description.stages.index(roles.anchor)
    early, late = description.stages[:at], description.stages[at + 1 :]
    carried = over(description, roles.column)
    _require_places(roles, carried, early, late)
    _require_one_running_value(description, roles, carried)
    anchor = roles.anchor if start is None else replace(roles.anchor, init=start)
    reduced = _tile_of(roles.anchor, names)
    then = new_stage(
        names("{last}_before", anchor.name),
        _kept(anchor),
        tirx.if_then_else(tirx.EQ(tile.var, tirx.const(0, "int32")), anchor.init, load(anchor)),
        tile=tile,
    )
    rescales: list[Stage] = []
    second: list[Stage] = []
    for stage in late:
        if stage in carried:
            factor = repair(description, anchor, stage, load(then), load(anchor))
            part = _tile_of(stage, names)
            update = _carried(stage, load(part), _stored(factor, anchor, rescales, names), tile)
            second += [part, update]
        elif not stage.is_output:
            second.append(stage)
    return OnePass(
        tile,
        tuple(stage for stage in early if roles.column not in stage.axes),
        (*(stage for stage in early if roles.column in stage.axes), reduced),
        (then, _carried(anchor, load(reduced), None, tile), *rescales),
        tuple(second),
        tuple(stage for stage in late if stage.is_output),
    )


def _require_places(
    roles: Roles, carried: Sequence[Stage], early: Sequence[Stage], late: Sequence[Stage]
) -> None:
    """Refuse stages that the pass has no place for."""
    for stage in early:
        if stage in carried or stage.is_output:
            raise DerivationError(
                f"{stage.name!r} stands before {roles.anchor.name!r}, the first running value that "
                "another stage reads: put it behind"
            )
    for stage in late:
        if not (stage.is_output or stage in carried or roles.column in stage.axes):
            raise DerivationError(
                f"{stage.name!r} reads no column and stands behind {roles.anchor.name!r}: put it "
                "into the outputs that read it"
            )


def _require_one_running_value(
    description: Description, roles: Roles, carried: Sequence[Stage]
) -> None:
    """Refuse a reduction that reads a running value besides the anchor: only this is put right."""
    for stage in carried:
        for other in carried:
            if other not in (stage, roles.anchor) and reads_through(description, stage, other):
                raise DerivationError(
                    f"{stage.name!r} reads {other.name!r}, which is not whole before the last "
                    f"column: a reduction may read {roles.anchor.name!r} alone; put what reads it "
                    "into the outputs"
                )


def _kept(stage: Stage) -> tuple[Axis, ...]:
    """The axes that ``stage`` does not reduce."""
    return tuple(axis for axis in stage.axes if axis not in stage.reduced)


def _tile_of(stage: Stage, names: Names) -> Stage:
    """The reduction ``stage`` of one tile."""
    buffer = new_stage(names("tile_{last}", stage.name), _kept(stage), stage.value).buffer
    return replace(stage, name=buffer.name, buffer=buffer)


def _carried(stage: Stage, part: Expr, factor: Expr | None, tile: Axis) -> Stage:
    """``stage``, which the reduction of one tile is added to at a time."""
    running: Any = load(stage)
    value = stage.combine(running if factor is None else running * factor, part)
    return replace(stage, axes=_kept(stage), value=value, combine=None, tile=tile)


def _stored(factor: Expr | None, anchor: Stage, rescales: list[Stage], names: Names) -> Expr | None:
    """``factor`` as one of ``rescales``, the same for all reductions with the same."""
    if factor is None:
        return None
    for stage in rescales:
        if equal(stage.value, factor):
            return load(stage)
    rule = "rescale_{stage}" if rescales else "rescale"
    rescales.append(new_stage(names(rule, str(len(rescales))), _kept(anchor), factor))
    return load(rescales[-1])
