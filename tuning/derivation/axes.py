"""The pass that gives an axis one variable in all stages, and finds the axis of the one pass.

Two iteration variables are the same axis where one stage writes at the one what another reads at
the other. The anchor is the first reduction that a later reduction over the same axis reads: its
last index is the row, the axis that it reduces is the column, its other indices lie outside.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tvm.ir import Var

from ..errors import DerivationError
from .expressions import Expr, dtype_of, equal, loads, substituted
from .stages import Axis, Description, Stage


@dataclass(frozen=True, eq=False)
class Roles:
    """Which stage and which axes the one pass is about.

    Parameters
    ----------
    anchor : Stage
        The reduction that the later ones read while it still runs.
    outer : tuple of Axis
        Of which each point is computed by itself.
    row, column : Axis
        What is tiled: the anchor has one value a row, and reduces columns.
    """

    anchor: Stage
    outer: tuple[Axis, ...]
    row: Axis
    column: Axis

    @property
    def dtype(self) -> str:
        """Of the anchor."""
        return dtype_of(self.anchor.buffer)


def unify(description: Description) -> Description:
    """``description`` with one variable an axis, whichever the stage.

    Raises
    ------
    DerivationError
        If a stage is read elsewhere than at iteration variables as they are, or axes that would
        be one have different extents.
    """
    same: dict[Var, Var] = {}

    def first(var: Var) -> Var:
        while var in same:
            var = same[var]
        return var

    for reader in description.stages:
        for load in loads(reader.value):
            read = description.stage_of(load.source)
            if read is None:
                continue
            for index, written in zip(load.indices, read.indices, strict=True):
                if not isinstance(index, Var):
                    raise DerivationError(
                        f"sblock {reader.name!r} reads {read.name!r} at {index}: stages are read "
                        "at iteration variables as they are; only parameters may be read elsewhere"
                    )
                if not first(index).same_as(first(written)):
                    same[first(index)] = first(written)
    own = [axis.var for stage in description.stages for axis in stage.axes]
    return _renamed(description, {var: first(var) for var in own})


def find_roles(description: Description) -> Roles:
    """The anchor of a unified description, and the axes of the one pass.

    Raises
    ------
    DerivationError
        If no reduction reads an earlier one over the same axis.
    """
    for anchor in description.stages:
        for axis in anchor.reduced:
            if any(reads_through(description, later, anchor) for later in over(description, axis)):
                *outer, row = (_axis(anchor, index) for index in anchor.indices)
                return Roles(anchor, tuple(outer), row, axis)
    raise DerivationError(
        "no reduction reads an earlier one over the same axis: there is nothing to carry from tile "
        "to tile, and a schedule can tile the description as it is"
    )


def over(description: Description, axis: Axis) -> list[Stage]:
    """The stages that reduce ``axis``."""
    return [s for s in description.stages if axis in s.reduced]


def reads_through(description: Description, reader: Stage, read: Stage) -> bool:
    """Whether ``reader`` reads ``read`` itself, or by way of stages that are not reductions."""
    for load in loads(reader.value):
        stage = description.stage_of(load.source)
        if stage is read:
            return True
        if stage and not stage.reduced and reads_through(description, stage, read):
            return True
    return False


def _axis(stage: Stage, var: Var) -> Axis:
    return next(axis for axis in stage.axes if axis.var.same_as(var))


def _all_renamed(exprs: tuple[Expr, ...], names: dict[Var, Var]) -> tuple[Expr, ...]:
    return tuple(substituted(each, names) for each in exprs)


def _renamed(description: Description, names: dict[Var, Var]) -> Description:
    extents: dict[Var, Axis] = {}
    for stage in description.stages:
        for axis in stage.axes:
            known = extents.setdefault(names[axis.var], Axis(names[axis.var], axis.extent))
            if not equal(known.extent, axis.extent):
                raise DerivationError(
                    f"sblock {stage.name!r}: iteration variable {axis.var.name} has the extent "
                    f"{axis.extent}, where a stage that it reads has {known.extent}"
                )
    return Description(
        tuple(
            replace(
                stage,
                axes=tuple(extents[names[axis.var]] for axis in stage.axes),
                indices=tuple(names[index] for index in stage.indices),
                value=substituted(stage.value, names),
                place=None if stage.place is None else _all_renamed(stage.place, names),
                where=None if stage.where is None else substituted(stage.where, names),
            )
            for stage in description.stages
        )
    )
