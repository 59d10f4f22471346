"""All passes, one after another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx

from .axes import Roles, find_roles, unify
from .emitting import Calls, emit
from .epilogue import finish, stage_outputs
from .extending import extend
from .fusing import fuse
from .inlining import inline
from .intervals import Intervals, find_intervals
from .lanes import spread
from .naming import Names
from .one_pass import OnePass, one_pass
from .operands import stage_operands
from .packing import Packing, find_packing
from .printing import one_pass_text
from .rings import in_rings
from .scaling import scale_late
from .sequence import side_by_side
from .slack import Slack, in_range, let_lag
from .stages import Axis, Description, read_description
from .tiling import Tiling, tiled, tiles_of


@dataclass(frozen=True)
class Pipelining:
    """What is chosen for a pipeline, besides tiles.

    Parameters
    ----------
    ring : int
        Tiles that are kept at once of each parameter that columns are copied of.
    staged : bool
        Whether outputs with more than one element a row are tiles first, which are then copied.
    slack : Slack
        How exactly the anchor is the maximum.
    """

    ring: int
    staged: bool
    slack: Slack


def derive_online(function: Any, tiling: Tiling, calls: Calls, names: Names) -> tirx.PrimFunc:
    """``function`` tile by tile, with one pass over what its reductions reduce.

    Parameters
    ----------
    function : PrimFunc
        A description; :mod:`.stages` says of which form.
    tiling : Tiling
        What is chosen before any schedule.
    calls : mapping
        What stands for calls of TIR's own functions of one argument, by their names.
    names : Names
        What new sblocks are called.

    Raises
    ------
    DerivationError
        If the description has not the form that a pass asks for.
    """
    found = _find(function)
    passes = _finished_online(_one_pass(found, tiling, names), found, names)
    nest = tiled(passes, found.roles, found.intervals, tiling, names, found.packing)
    return emit(nest, function.params, function.attrs, calls)


def derive_text(function: Any, start: float | None, names: Names) -> str:
    """``function`` with one pass over what its reductions reduce, before it is tiled, for readers.

    Parameters
    ----------
    function, names
        As :func:`derive_online` takes them.
    start : float, optional
        As in :class:`~.tiling.Tiling`.

    Raises
    ------
    DerivationError
        If the description has not the form that a pass asks for.
    """
    found = _find(function)
    init = None if start is None else tirx.const(start, found.roles.dtype)
    tile = tiles_of(found.roles.column, 1)
    passes = one_pass(found.description, found.roles, tile, init, names)
    passes = _finished_online(passes, found, names)
    return one_pass_text(passes, found.roles, found.intervals, function.params)


def derive_pipelined(
    function: Any, tiling: Tiling, pipelining: Pipelining, calls: Calls, names: Names
) -> tirx.PrimFunc:
    """``function`` tile by tile, every step of a tile of columns side by side.

    Parameters
    ----------
    function, tiling, calls, names
        As :func:`derive_online` takes them.
    pipelining : Pipelining
        What is chosen besides tiles.

    Raises
    ------
    DerivationError
        If the description has not the form that a pass asks for.
    """
    found = _find(function)
    roles, rows, slack = found.roles, found.rows, pipelining.slack
    passes = _one_pass(found, tiling, names)
    passes = let_lag(scale_late(passes), roles, slack)
    passes = finish(passes, rows, found.intervals.guard, names, in_range(roles, slack), lazy=True)
    if pipelining.staged:
        passes = stage_outputs(passes, lambda output: len(output.axes) > len(rows), names)
    passes = spread(passes, names)
    nest = side_by_side(passes, roles, found.intervals, tiling, names, found.packing)
    nest = in_rings(fuse(nest), pipelining.ring)
    return emit(nest, function.params, function.attrs, calls)


@dataclass(frozen=True, eq=False)
class _Found:
    """A description, and what all passes ask of it."""

    description: Description
    roles: Roles
    intervals: Intervals
    packing: Packing | None

    @property
    def rows(self) -> tuple[Axis, ...]:
        """The axes of a value a row."""
        return (*self.roles.outer, self.roles.row)


def _find(function: Any) -> _Found:
    description = unify(inline(read_description(function)))
    roles = find_roles(description)
    intervals = find_intervals(description, roles)
    packing = find_packing(description, roles, intervals)
    return _Found(description, roles, intervals, packing)


def _one_pass(found: _Found, tiling: Tiling, names: Names) -> OnePass:
    roles = found.roles
    description = stage_operands(
        found.description, roles, found.intervals, tiling.operand_dtype, names
    )
    description = extend(description, roles, tiling.multiple)
    tile = tiles_of(roles.column, tiling.columns)
    start = None if tiling.start is None else tirx.const(tiling.start, roles.dtype)
    return one_pass(description, roles, tile, start, names)


def _finished_online(passes: OnePass, found: _Found, names: Names) -> OnePass:
    passes = finish(passes, found.rows, found.intervals.guard, names)
    return stage_outputs(passes, lambda output: len(output.axes) <= len(found.rows), names)
