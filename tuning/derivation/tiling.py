"""The pass that tiles rows and columns, and puts every stage into the nest.

Reads of parameters never leave the rows and the columns that there are: an index is made of the
last row, or of the last column of the range, where a tile reaches beyond. A value that is read
again so weighs nothing, since the mask drops the pair, and the description multiplies it too: it is
no padding. This is why a choice that only keeps padding out could go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tvm import tirx
from tvm.ir import Var

from .axes import Roles
from .expressions import (
    Buffer,
    Expr,
    Load,
    dtype_of,
    element,
    equal,
    loads,
    new_buffer,
    reads,
    substituted,
    with_loads,
)
from .intervals import Interval, Intervals
from .naming import Names
from .nest import Half, Kept, Nest, Step
from .one_pass import OnePass
from .stages import Axis, Stage


@dataclass(frozen=True)
class Tiling:
    """What is chosen before any schedule.

    Parameters
    ----------
    rows, columns : int
        Of a tile.
    operand_dtype : str
        What products read.
    start : float, optional
        What the anchor starts with; by default, what the description says. The anchor is a shift,
        which outputs do not depend on, so that any start will do from which differences with every
        value are finite.
    order : tuple of int
        The loops outside, as a permutation of the anchor's indices before the row.
    multiple : int
        Of the other axes of products, extended with zeros: see :mod:`.extending`.
    """

    rows: int
    columns: int
    operand_dtype: str = "float32"
    start: float | None = None
    order: tuple[int, ...] = ()
    multiple: int = 1


def tiles_of(axis: Axis, size: int) -> Axis:
    """The tiles of ``axis``."""
    return Axis(Var(axis.var.name + "t", "int32"), -(-axis.extent // size))


def tiled(
    passes: OnePass, roles: Roles, intervals: Intervals, tiling: Tiling, names: Names
) -> Nest:
    """The nest of ``passes``."""
    row_tiles = tiles_of(roles.row, tiling.rows)
    row_begin: Any = row_tiles.var * tiling.rows
    begin, end = Var("begin", "int32"), Var("end", "int32")
    bindings = _read_once(passes, roles)
    place = _Place(
        passes,
        roles,
        Axis(Var("wi", "int32"), tiling.rows),
        Axis(Var("wj", "int32"), tiling.columns),
        row_begin,
        Interval(begin, end),
        bindings,
    )
    visited = intervals.columns_of(row_begin, tiling.rows)

    def half(rule: str, stages: Sequence[Stage]) -> Half:
        kept = [_kept_of_half(passes, roles, stages, stage) for stage in stages]
        return Half(names(rule), tuple(map(place.step, stages, kept)))

    def rows(stages: Sequence[Stage], kept: Kept = Kept.ROW) -> tuple[Step, ...]:
        return tuple(place.step(stage, kept) for stage in stages)

    return Nest(
        names("row_tile"),
        (*(roles.outer[i] for i in tiling.order or range(len(roles.outer))), row_tiles),
        place.row,
        row_begin,
        (
            *((var, load) for load, var in bindings.items()),
            (begin, _bound(visited.begin, bindings)),
            (end, _bound(visited.end, bindings)),
        ),
        Interval(begin, end),
        passes.tile,
        tiling.columns,
        rows(passes.before, Kept.ROWS),
        (
            half("first_half", passes.first),
            *rows(passes.moving),
            half("second_half", passes.second),
            *rows(passes.closing),
        ),
        rows(passes.after),
    )


def _kept_of_half(passes: OnePass, roles: Roles, half: Sequence[Stage], stage: Stage) -> Kept:
    """What the buffer of a stage of one half is kept for."""
    if stage.tile is not None:
        return Kept.CARRIED
    if not any(reads(each.value, stage.buffer) for each in passes.stages if each not in half):
        return Kept.WITHIN
    return Kept.SHARED if roles.column.var in stage.indices else Kept.REDUCED


def _read_once(passes: OnePass, roles: Roles) -> dict[Load, Var]:
    """Integers of parameters that are the same for a tile of rows, with variables for them."""
    made = {stage.buffer for stage in passes.stages}
    bindings: dict[Load, Var] = {}
    for stage in passes.stages:
        for load in loads(stage.value):
            once = all(_among(index, roles.outer) for index in load.indices)
            integer = dtype_of(load) == "int32" and load.source not in made
            if once and integer and _bound(load, bindings).same_as(load):
                bindings[load] = Var(load.source.name, "int32")
    return bindings


def _among(index: Expr, axes: Sequence[Axis]) -> bool:
    return any(axis.var.same_as(index) for axis in axes)


def _bound(expr: Expr, bindings: Mapping[Load, Var]) -> Expr:
    """``expr`` with variables for what is bound to them."""

    def changed(load: Load) -> Expr:
        known = (var for each, var in bindings.items() if equal(each, load))
        return next(known, load)

    return with_loads(expr, changed)


@dataclass(frozen=True, eq=False)
class _Place:
    """How the stages of a description read in a tile.

    Parameters
    ----------
    row, column : Axis
        Within the tile.
    row_begin : Expr
        Of the tile.
    columns : Interval
        Those of all tiles of columns.
    bindings : mapping
        What stands for loads.
    """

    passes: OnePass
    roles: Roles
    row: Axis
    column: Axis
    row_begin: Any
    columns: Interval
    bindings: Mapping[Load, Var]

    def step(self, stage: Stage, kept: Kept) -> Step:
        """``stage`` in the tile, its buffer kept as said if it has one of its own."""
        value = self._expr(stage.value)
        if stage.within is not None:
            zero = tirx.const(0, dtype_of(value))
            value = tirx.if_then_else(self._expr(stage.within), value, zero)
        if stage.is_output:
            buffer, where = stage.buffer, self.row_begin + self.row.var < self.roles.row.extent
            indices = tuple(self._expr(index) for index in stage.indices)
        else:
            buffer, where = self.buffers[stage.buffer], None
            indices = self._local(stage.indices)
        if stage.combine is not None:
            value = stage.combine(element(buffer, indices), value)
        return Step(
            stage.name,
            self._axes(stage),
            self._local([axis.var for axis in stage.reduced]),
            buffer,
            indices,
            value,
            stage.init,
            stage.tile,
            where,
            _kept(stage, kept),
        )

    @cached_property
    def buffers(self) -> dict[Buffer, Buffer]:
        """What stands for the buffers of stages."""
        return {s.buffer: self._buffer(s) for s in self.passes.stages if not s.is_output}

    def _buffer(self, stage: Stage) -> Buffer:
        extents = {axis.var: axis.extent for axis in self._axes(stage)}
        shape = [extents[index] for index in self._local(stage.indices)]
        return new_buffer(shape, dtype_of(stage.buffer), stage.name)

    def _axes(self, stage: Stage) -> tuple[Axis, ...]:
        """The axes of ``stage`` within the tile."""
        inside = {self.roles.row: self.row, self.roles.column: self.column}
        return tuple(inside.get(axis, axis) for axis in stage.axes if axis not in self.roles.outer)

    def _local(self, indices: Sequence[Any]) -> tuple[Var, ...]:
        """Variables of axes within the tile."""
        roles = self.roles
        inside: dict[Any, Any] = {roles.row.var: self.row.var, roles.column.var: self.column.var}
        kept = (index for index in indices if not _among(index, roles.outer))
        return tuple(inside.get(index, index) for index in kept)

    def _expr(self, expr: Expr) -> Expr:
        """``expr`` within the tile."""
        roles, row = self.roles, self.row_begin + self.row.var
        column: Any = self.columns.begin + self.passes.tile.var * self.column.extent
        column = column + self.column.var
        there_is = {
            roles.row.var: tirx.min(row, roles.row.extent - 1),
            roles.column.var: tirx.min(column, self.columns.end - 1),
        }

        def changed(load: Load) -> Expr:
            buffer = self.buffers.get(load.source)
            if buffer is not None:
                return element(buffer, self._local(load.indices))
            return element(load.source, [substituted(i, there_is) for i in load.indices])

        inside = with_loads(_bound(expr, self.bindings), changed)
        return substituted(inside, {roles.row.var: row, roles.column.var: column})


def _kept(stage: Stage, kept: Kept) -> Kept | None:
    if stage.is_output:
        return None
    return Kept.RECIPROCAL if isinstance(stage.value, tirx.Div) else kept
