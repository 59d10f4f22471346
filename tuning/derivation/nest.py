"""A tiled description before it is TIR: steps, and where in the nest of loops each stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from tvm.ir import Var

from .expressions import Buffer, Expr
from .stages import Axis


class Kept(IntEnum):
    """What a buffer of the nest is kept for; buffers are allocated in this order."""

    ROWS = 0  # operands for all tiles of columns
    COPIES = 1  # operands for one tile of columns, of steps side by side
    SHARED = 2  # values a column, for both halves of a tile
    REDUCED = 3  # what a half reduces its columns to
    ROW = 4  # values a row
    RECIPROCAL = 5  # of values a row
    CARRIED = 6  # from tile to tile, with more axes than the row
    STAGED = 7  # an output, before it is stored
    WITHIN = 8  # one half: allocated there


@dataclass(frozen=True, eq=False)
class Step:
    """One sblock of the nest.

    Parameters
    ----------
    name : str
        Of the sblock.
    axes : tuple of Axis
        Its loops, in their order.
    reduced : tuple of Var
        Those that it reduces.
    buffer : Var
        What it writes: a buffer of the nest, or an output.
    indices : tuple of Expr
        Where.
    value : Expr
        What it stores.
    init : Expr, optional
        What a reduction starts with.
    tile : Axis, optional
        The tile of columns, of a step that is computed once a tile: a reduction over tiles, if
        there is an ``init``.
    where : Expr, optional
        Whether there is such an element, if not always.
    kept : Kept, optional
        What ``buffer`` is kept for; None for an output.
    at : Axis, optional
        The tile of columns, of a step beside others that reads or writes what lies at its number:
        an iteration variable before all others.
    unrolled : tuple of Axis
        Loops within the sblock, around its one store.
    everywhere : tuple of (Expr, Expr), optional
        A condition on the whole tile, and the value that all elements have where it holds.
    only_where : Expr, optional
        Whether the element is stored, if not always.
    """

    name: str
    axes: tuple[Axis, ...]
    reduced: tuple[Var, ...]
    buffer: Buffer
    indices: tuple[Expr, ...]
    value: Expr
    init: Expr | None = None
    tile: Axis | None = None
    where: Expr | None = None
    kept: Kept | None = None
    at: Axis | None = None
    unrolled: tuple[Axis, ...] = ()
    everywhere: tuple[Expr, Expr] | None = None
    only_where: Expr | None = None

    @property
    def values(self) -> tuple[Expr, ...]:
        """What it computes."""
        everywhere = self.everywhere or ()
        return (self.value, *everywhere, *([] if self.only_where is None else [self.only_where]))


@dataclass(frozen=True, eq=False)
class Search:
    """For the last number from ``begin`` to before ``end`` at which a condition holds.

    It holds at ``begin``, whatever is asked there, and nowhere behind where it does not.

    Parameters
    ----------
    var : Var
        What is bound to the number.
    begin, end : Expr
        Of the numbers; there is one.
    holds : callable
        From a number to the condition.
    """

    var: Var
    begin: Expr
    end: Expr
    holds: Callable[[Expr], Expr]


@dataclass(frozen=True, eq=False)
class Half:
    """Steps of a tile of columns that one sblock holds."""

    name: str
    steps: tuple[Step, ...]


@dataclass(frozen=True, eq=False)
class Nest:
    """A tile of rows, in it the loop over tiles of columns.

    Parameters
    ----------
    name : str
        Of the sblock of a tile of rows.
    outer : tuple of Axis
        The loops outside, tiles of rows last.
    row : Axis
        Within the tile.
    row_begin : Expr
        Of the tile.
    bindings : tuple of (Var, Expr)
        What a tile of rows computes once, in the order of its use.
    tile : Axis
        The tile of columns, of all that there can be.
    visited : Expr
        How many tiles of columns it visits.
    before : tuple of Step
        Once, ahead of the loop.
    loop : tuple of Step or Half
        For each tile of columns.
    after : tuple of Step
        Once, behind the loop.
    before_where : Expr, optional
        Whether there is anything to do before, if not always.
    last_first : bool
        Whether the last tiles of rows are begun first.
    search : Search, optional
        What a tile of rows does before anything else.
    only_where : Expr, optional
        Whether anything of a tile of rows is stored, if not always: nothing is done for another.
    skips : bool
        Whether such a tile is skipped by going on with the next, rather than by a condition around
        all steps, within which schedules find no place for a step of theirs.
    loaded : bool
        Whether what is bound is loaded from memory, where it was stored: passes of TVM's put what
        is bound to anything else into what reads it, over and over.
    """

    name: str
    outer: tuple[Axis, ...]
    row: Axis
    row_begin: Expr
    bindings: tuple[tuple[Var, Expr], ...]
    tile: Axis
    visited: Expr
    before: tuple[Step, ...]
    loop: tuple[Step | Half, ...]
    after: tuple[Step, ...]
    before_where: Expr | None = None
    last_first: bool = False
    search: Search | None = None
    only_where: Expr | None = None
    skips: bool = False
    loaded: bool = False

    @property
    def steps(self) -> tuple[Step, ...]:
        """Every step, in the order of the nest."""
        halves = [each.steps if isinstance(each, Half) else (each,) for each in self.loop]
        return (*self.before, *(step for steps in halves for step in steps), *self.after)
