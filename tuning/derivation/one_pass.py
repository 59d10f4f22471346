"""The pass that makes reductions over all columns reductions over one tile, carried to the next.

A tile of columns is computed in two halves: up to what the anchor is reduced to, and everything
that reads the anchor. Between them the anchor moves. Carried values of a row alone are updated
outside of the halves, those with more axes inside, where schedules fuse the update with the product
that it adds.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    first, moving, second, closing : tuple of Stage
        For each tile of columns: the first half; the anchor's way on; the second half; the
        carried values of a row alone.
    after : tuple of Stage
        Once, at the end: what outputs are made of.
    """

    tile: Axis
    before: tuple[Stage, ...]
    first: tuple[Stage, ...]
    moving: tuple[Stage, ...]
    second: tuple[Stage, ...]
    closing: tuple[Stage, ...]
    after: tuple[Stage, ...]

    @property
    def stages(self) -> tuple[Stage, ...]:
        """All, in their order."""
        return (
            *self.before, *self.first, *self.moving, *self.second, *self.closing, *self.after,
        )  # fmt: skip


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
    closing: list[Stage] = []
    for stage in late:
        if stage in carried:
            factor = repair(description, anchor, stage, load(then), load(anchor))
            part = _tile_of(stage, names)
            update = _carried(stage, load(part), _stored(factor, anchor, rescales, names), tile)
            second.append(part)
            (closing if len(_kept(stage)) == len(_kept(anchor)) else second).append(update)
        elif not stage.is_output:
            second.append(stage)
    return OnePass(
        tile,
        tuple(stage for stage in early if roles.column not in stage.axes),
        (*_copies_first(description, [s for s in early if roles.column in s.axes]), reduced),
        (then, _carried(anchor, load(reduced), None, tile), *rescales),
        tuple(_copies_first(description, second)),
        tuple(closing),
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


def _copies_first(description: Description, stages: Sequence[Stage]) -> list[Stage]:
    """``stages`` with copies of parameters before all else."""
    return sorted(stages, key=lambda stage: not _copies(description, stage))  # stable


def _copies(description: Description, stage: Stage) -> bool:
    value = stage.value
    while isinstance(value, tirx.Cast):
        value = value.value
    return isinstance(value, TensorLoad) and description.stage_of(value.source) is None
