"""All passes, one after another."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from .axes import find_roles, unify
from .emitting import Calls, emit
from .epilogue import finish
from .extending import extend
from .inlining import inline
from .intervals import find_intervals, guard_of
from .naming import Names
from .one_pass import one_pass
from .operands import stage_operands
from .printing import one_pass_text
from .stages import read_description
from .tiling import Tiling, tiled, tiles_of


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
    description = unify(inline(read_description(function)))
    roles = find_roles(description)
    intervals, guard = find_intervals(description, roles), guard_of(description)
    description = stage_operands(description, roles, intervals, tiling.operand_dtype, names)
    description = extend(description, roles, tiling.multiple)
    tile = tiles_of(roles.column, tiling.columns)
    start = None if tiling.start is None else tirx.const(tiling.start, roles.dtype)
    passes = one_pass(description, roles, tile, start, names)
    passes = finish(passes, (*roles.outer, roles.row), guard, names)
    nest = tiled(passes, roles, intervals, tiling, names)
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
    description = unify(inline(read_description(function)))
    roles = find_roles(description)
    intervals, guard = find_intervals(description, roles), guard_of(description)
    init = None if start is None else tirx.const(start, roles.dtype)
    passes = one_pass(description, roles, tiles_of(roles.column, 1), init, names)
    passes = finish(passes, (*roles.outer, roles.row), guard, names)
    return one_pass_text(passes, roles, intervals, function.params)
