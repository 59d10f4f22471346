"""The pass that tiles rows and columns, and puts every stage into the nest.

Reads of parameters never leave the rows and the columns that there are: an index is made of the
last row, or of the last column of the range, where a tile reaches beyond. A value that is read
again so weighs nothing, since the mask drops the pair, and the description multiplies it too: it is
no padding. This is why a choice that only keeps padding out could go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.ir import Var
from tvm.sym import Analyzer

from .axes import Roles
from .expressions import (
    Buffer,
    Expr,
    Load,
    depends,
    dtype_of,
    element,
    found,
    loads,
    new_buffer,
    reads,
    substituted,
    variables,
    with_equal,
    with_loads,
)
from .intervals import Interval, Intervals
from .naming import Names
from .nest import Half, Kept, Nest, Search, Step
from .one_pass import OnePass
from .packing import Packing
from .sharing import Sharing, find_sharing
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
    aligned : bool
        Whether a tile of rows begins with the first row that may see a column, where padding comes
        before it. Where a row sees the columns up to its own, a tile of rows then masks as many
        tiles of columns as without padding; for it there is a tile more that may hold nothing.
    shared : int
        Neighbouring points of the last axis outside that share a tile of rows: see :mod:`.sharing`.
    """

    rows: int
    columns: int
    operand_dtype: str = "float32"
    start: float | None = None
    order: tuple[int, ...] = ()
    multiple: int = 1
    aligned: bool = False
    shared: int = 1


def tiles_of(axis: Axis, size: int, begun_before: int = 0) -> Axis:
    """The tiles of ``axis``, of which the first begins up to a number of elements before it."""
    return Axis(Var(axis.var.name + "t", "int32"), -(-(axis.extent + begun_before) // size))


def tiled(
    passes: OnePass,
    roles: Roles,
    intervals: Intervals,
    tiling: Tiling,
    names: Names,
    packing: Packing | None = None,
) -> Nest:
    """The nest of ``passes``, a tile of columns in two halves.

    Carried values of a row alone are updated outside of the halves, those with more axes inside,
    where schedules fuse the update with the product that it adds.
    """
    place = place_of(passes, roles, intervals, tiling, packing)
    closing = passes.closing

    def half(rule: str, stages: Sequence[Stage]) -> Half:
        copies_first = sorted(stages, key=lambda stage: not passes.copies(stage))  # stable
        steps = (place.step(s, _kept_of_half(passes, roles, stages, s)) for s in copies_first)
        return Half(names(rule), tuple(steps))

    visited: Any = place.columns.end - place.columns.begin + (tiling.columns - 1)
    return Nest(
        names("row_tile"),
        place.outer,
        place.row,
        place.row_begin,
        place.bound(intervals),
        passes.tile,
        Analyzer().simplify(visited // tiling.columns),
        place.steps(passes.before, Kept.ROWS),
        (
            half("first_half", passes.first),
            *place.steps(passes.moving),
            half("second_half", [stage for stage in passes.second if stage not in closing]),
            *place.steps(closing),
        ),
        place.steps(passes.after),
        before_where=place.columns.begin < place.columns.end,
        search=place.search,
        only_where=place.some_written(intervals),
        loaded=place.is_loaded,
    )


def place_of(
    passes: OnePass,
    roles: Roles,
    intervals: Intervals,
    tiling: Tiling,
    packing: Packing | None,
) -> Place:
    """How the stages of ``passes`` read in a tile."""
    aligned = tiling.aligned and intervals.rows_begin_later
    sharing = find_sharing(passes.stages, roles, intervals, tiling.shared, tiling.rows)
    length = tiling.rows // tiling.shared
    row_tiles = tiles_of(roles.row, length, begun_before=length - 1 if aligned else 0)
    outside = [roles.outer[i] for i in tiling.order or range(len(roles.outer))]
    if sharing is not None:
        outside = [sharing.groups if axis is sharing.axis else axis for axis in outside]
    if packing is None:
        outer = (*outside, row_tiles)
    else:
        others = (axis for axis in outside if axis is not packing.sequence)
        outer = (*others, packing.tiles(length))
    row, column = Axis(Var("wi", "int32"), tiling.rows), Axis(Var("wj", "int32"), tiling.columns)
    inside = {roles.row: row, roles.column: column}
    return Place(
        passes,
        roles,
        outer,
        row,
        column,
        tiling.columns,
        (column.var,),
        row_tiles.var,
        packing,
        Interval(Var("begin", "int32"), Var("end", "int32")),
        _known_once(passes, roles, sharing, packed=packing is not None),
        {s.buffer: _tile_buffer(s, roles, inside) for s in passes.stages if not s.is_output},
        Var("row_begin", "int32") if aligned else None,
        sharing=sharing,
    )


@dataclass(frozen=True, eq=False)
class Place:
    """How the stages of a description read in a tile.

    Parameters
    ----------
    outer : tuple of Axis
        The loops outside, tiles of rows last.
    row, column : Axis
        Within the tile.
    width : int
        Columns of a tile.
    parts : tuple of Expr
        What adds up to a column within the tile.
    number : Var
        Of the tile of rows, among those of its sequence.
    packing : Packing, optional
        Where sequences lie, if one behind another.
    columns : Interval
        Those of all tiles of columns: variables.
    bindings : tuple of (Var, Expr)
        What is the same for a tile of rows, in terms of those before it.
    buffers : mapping
        What stands for the buffers of stages.
    aligned_begin : Var, optional
        The first row of the tile, of tiles that begin with the first row that may see a column, or
        a number of tiles before it: rows of the first tile may lie before all that there are.
    guard : (Expr, Expr), optional
        Of the outputs, and what is asked in its place.
    sharing : Sharing, optional
        Of tiles that hold rows of several points of an axis outside.
    """

    passes: OnePass
    roles: Roles
    outer: tuple[Axis, ...]
    row: Axis
    column: Axis
    width: int
    parts: tuple[Any, ...]
    number: Any
    packing: Packing | None
    columns: Interval
    bindings: tuple[tuple[Var, Expr], ...]
    buffers: Mapping[Buffer, Buffer]
    aligned_begin: Any = None
    guard: tuple[Expr, Expr] | None = None
    sharing: Sharing | None = None

    @property
    def length(self) -> int:
        """Rows of the description that the tile covers, of each point that shares it."""
        rows: Any = self.row.extent
        return rows if self.sharing is None else rows // self.sharing.count

    @property
    def row_begin(self) -> Any:
        """Of the tile."""
        return self.number * self.length if self.aligned_begin is None else self.aligned_begin

    @property
    def at_row(self) -> Any:
        """The row of the description that a row of the tile is."""
        row: Any = self.row.var
        return self.row_begin + (row if self.sharing is None else row // self.sharing.count)

    @property
    def is_loaded(self) -> bool:
        """Whether what a tile of rows computes once is too long to be repeated in every index."""
        return self.packing is not None or self.aligned_begin is not None

    def bound(self, intervals: Intervals) -> tuple[tuple[Var, Expr], ...]:
        """What a tile of rows computes once: what is read of parameters, and its columns."""
        visited = intervals.columns_of(self.row_begin, self.length)
        begin: Any = self.columns.begin
        end: Any = self.columns.end
        return (
            *self.bindings,
            *self._number(),
            *self._aligned(intervals),
            (begin, self.once(visited.begin)),
            (end, self.once(visited.end)),
        )

    @property
    def search(self) -> Search | None:
        """For the sequence that a tile of rows is of."""
        if self.packing is None:
            return None
        return self.packing.search(self.outer[-1].var, self.length)

    def _number(self) -> tuple[tuple[Var, Expr], ...]:
        """That of a tile of all, among those of its sequence."""
        if self.packing is None:
            return ()
        first = self.packing.number(self.packing.sequence.var, self.length)
        tile: Any = self.outer[-1].var
        # A sequence that does not begin where the one before ends may have no tile before this.
        return ((self.number, tirx.max(tile - self.once(first), 0)),)

    def _aligned(self, intervals: Intervals) -> tuple[tuple[Var, Expr], ...]:
        """The first row, where tiles are aligned with the rows that may see a column."""
        if self.aligned_begin is None:
            return ()
        first: Any = self.once(intervals.rows.begin)
        size = self.length
        origin = first - (first + (size - 1)) // size * size
        return ((self.aligned_begin, self.number * size + origin),)

    def some_written(self, intervals: Intervals) -> Expr | None:
        """Whether a tile of rows stores anything; None if each one does."""
        some = intervals.some_written(self.row_begin, self.length)
        return None if some is None else self.once(some)

    def once(self, expr: Expr) -> Expr:
        """``expr`` with variables for what is known once."""
        return _with_bindings(expr, self.bindings)

    def steps(self, stages: Sequence[Stage], kept: Kept = Kept.ROW) -> tuple[Step, ...]:
        """``stages`` in the tile, each buffer kept as said."""
        return tuple(self.step(stage, kept) for stage in stages)

    def step(self, stage: Stage, kept: Kept) -> Step:
        """``stage`` in the tile, its buffer kept as said if it has one of its own."""
        of_rows = self.roles.row in stage.axes
        value, only_where = self.expr(stage.value, of_rows=of_rows), None
        if stage.within is not None:
            zero = tirx.const(0, dtype_of(value))
            within = self.expr(stage.within, of_rows=of_rows)
            value = tirx.if_then_else(within, value, zero)
        if stage.is_output:
            buffer, where = stage.buffer, self.at_row < self.roles.row.extent
            if stage.place is not None:
                where = self.expr(stage.where)
            else:
                only_where = self._only_where(stage)
            indices = tuple(self.expr(index) for index in stage.place or stage.indices)
        else:
            buffer, where = self.buffers[stage.buffer], None
            indices = self._local(stage.indices)
        if stage.combine is not None:
            value = stage.combine(element(buffer, indices), value)
        inside = {self.roles.row: self.row, self.roles.column: self.column}
        axes = (axis for axis in stage.axes if axis not in self.roles.outer)
        return Step(
            stage.name,
            tuple(inside.get(axis, axis) for axis in axes),
            tuple(inside.get(axis, axis).var for axis in stage.reduced),
            buffer,
            indices,
            value,
            stage.init,
            stage.tile,
            where,
            _kept(stage, kept),
            only_where=only_where,
        )

    def _only_where(self, stage: Stage) -> Expr | None:
        """Which rows of a tile an output is stored for, of those before the end of all rows."""
        asked = [] if stage.where is None else [self.expr(stage.where)]
        if self.aligned_begin is not None:
            asked.insert(0, self.at_row >= 0)
        return tirx.all(*asked) if asked else None

    @property
    def tile_begin(self) -> Any:
        """The first column of a tile of columns."""
        tile: Any = self.passes.tile.var
        return self.columns.begin + tile * self.width

    def expr(self, expr: Expr, inside: bool = False, of_rows: bool = True) -> Expr:
        """``expr`` within the tile.

        Parameters
        ----------
        inside : bool
            Whether all columns of the tile are known to be some that there are.
        of_rows : bool
            Whether it is something of each row; else it is the same for all of the tile.
        """
        roles, row = self.roles, self.at_row
        column: Any = sum(self.parts, self.tile_begin)
        not_before = row if self.aligned_begin is None else tirx.max(row, 0)
        there_is = {
            roles.row.var: tirx.min(not_before, roles.row.extent - 1),
            roles.column.var: column if inside else tirx.min(column, self.columns.end - 1),
        }

        def changed(load: Load) -> Expr:
            buffer = self.buffers.get(load.source)
            if buffer is not None:
                return element(buffer, self._local(load.indices))
            there = (self._of_points(index, of_rows=of_rows) for index in load.indices)
            return element(load.source, [substituted(index, there_is) for index in there])

        if self.guard is not None:
            expr = with_equal(expr, *self.guard)
        tiled = self._of_points(with_loads(self.once(expr), changed), of_rows=of_rows)
        return substituted(tiled, {roles.row.var: row, roles.column.var: column})

    def _of_points(self, expr: Expr, *, of_rows: bool) -> Expr:
        """``expr`` of the points that share the tile, in the place of their axis."""
        sharing = self.sharing
        if sharing is None or not depends(expr, sharing.axis.var):
            return expr
        if of_rows:
            return substituted(expr, {sharing.axis.var: sharing.point(self.row.var)})
        the_same = sharing.for_all(expr)
        assert the_same is not None  # as was asked when it was found that they share
        return the_same

    def _local(self, indices: Sequence[Any]) -> tuple[Any, ...]:
        """Indices within the tile."""
        roles, (first, *others) = self.roles, self.parts
        inside: dict[Any, Any] = {
            roles.row.var: self.row.var,
            roles.column.var: sum(others, first),
        }
        kept = (index for index in indices if not _among(index, roles.outer))
        return tuple(inside.get(index, index) for index in kept)


def kept_in_loop(roles: Roles, stage: Stage) -> Kept:
    """What the buffer of a stage that is computed for each tile of columns is kept for."""
    return Kept.SHARED if roles.column.var in stage.indices else Kept.REDUCED


def _kept_of_half(passes: OnePass, roles: Roles, half: Sequence[Stage], stage: Stage) -> Kept:
    if stage.tile is not None:
        return Kept.CARRIED
    if not any(reads(each.value, stage.buffer) for each in passes.stages if each not in half):
        return Kept.WITHIN
    return kept_in_loop(roles, stage)


def _kept(stage: Stage, kept: Kept) -> Kept | None:
    if stage.is_output:
        return None
    return Kept.RECIPROCAL if isinstance(stage.value, tirx.Div) else kept


def _tile_buffer(stage: Stage, roles: Roles, inside: Mapping[Axis, Axis]) -> Buffer:
    """What holds a tile of ``stage``."""
    extents = {axis.var: inside.get(axis, axis).extent for axis in stage.axes}
    shape = [extents[index] for index in stage.indices if not _among(index, roles.outer)]
    return new_buffer(shape, dtype_of(stage.buffer), stage.name)


def _known_once(
    passes: OnePass, roles: Roles, sharing: Sharing | None, *, packed: bool
) -> tuple[tuple[Var, Expr], ...]:
    """Integers of parameters that are the same for a tile of rows, with variables for them.

    Where sequences are packed, their beginnings and lengths, clamped, are known once too.
    """
    made = {stage.buffer for stage in passes.stages}
    outside = [axis for axis in roles.outer if sharing is None or axis is not sharing.axis]
    inner = {axis.var for stage in passes.stages for axis in stage.axes if axis not in outside}
    exprs = [expr for stage in passes.stages for expr in stage.exprs]
    bindings: list[tuple[Var, Expr]] = []

    def once(expr: Expr) -> bool:
        of_parameters = all(load.source not in made for load in loads(expr))
        return of_parameters and not any(var in inner for var in variables(expr))

    for load in (load for expr in exprs for load in loads(expr)):
        if (
            once(load)
            and dtype_of(load) == "int32"
            and _with_bindings(load, bindings).same_as(load)
        ):
            bindings.append((Var(load.source.name, "int32"), load))
    for clamped in (each for expr in exprs if packed for each in found(expr, tirx.Max)):
        if once(clamped) and loads(clamped):
            value = _with_bindings(clamped, bindings)
            if isinstance(value, tirx.Max):
                bindings.append((Var("clamped", "int32"), value))
    return tuple(bindings)


def _among(index: Expr, axes: Sequence[Axis]) -> bool:
    return any(axis.var.same_as(index) for axis in axes)


def _with_bindings(expr: Expr, bindings: Sequence[tuple[Var, Expr]]) -> Expr:
    """``expr`` with variables for what is bound to them."""
    for var, bound in bindings:
        expr = with_equal(expr, bound, var)
    return expr
