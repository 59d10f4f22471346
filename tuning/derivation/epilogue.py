"""The pass that makes outputs of what was carried.

A row that sees no column carries what nobody may compute with, and where outputs divide by a value
of the row, one reciprocal serves all elements of the row. So:

- the condition that outputs share, ``Select(valid, x / total, 0)``, goes to the element alone:
  ``Select(valid, x, 0) * inverse``;
- ``final`` is the total where the row is valid, 1 elsewhere, and ``inverse`` is ``1 / final``; if
  an output reads the total as one that is NaN where it is not above 0 (``total + Select(total > 0,
  0, NaN)``), all do: ``x / 0`` of a sum of nothing is NaN as well. Where a condition says which
  rows are defined, all outputs read a total that is NaN elsewhere.

An output may be computed for a whole tile, and stored afterwards: only the store is bound to the
rows that there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import tvm_ffi
from tvm import tirx

from .expressions import Expr, Load, depends, dtype_of, equal, found, loads, with_equal
from .naming import Names
from .one_pass import OnePass
from .stages import Axis, Stage, load, new_stage


def finish(
    passes: OnePass,
    rows: Sequence[Axis],
    guard: Expr,
    names: Names,
    defined: Expr | None = None,
    lazy: bool = False,
) -> OnePass:
    """``passes`` with outputs as they are computed at the end of a tile of rows.

    Parameters
    ----------
    rows : sequence of Axis
        Of a value a row.
    guard : Expr
        Where outputs are no constants.
    defined : Expr, optional
        Where a row is no NaN, if not where its total is above 0.
    lazy : bool
        Whether an element is not so much as read where the row is not valid.
    """
    made: list[Stage] = []
    outputs = passes.after
    for total in passes.closing:
        if not any(_divided_by(total, output.value) for output in outputs):
            continue
        read = _as_read(total, outputs)
        one = tirx.const(1, dtype_of(total.buffer))
        value = read if defined is None else _or_nan(defined, load(total))
        valid = tirx.Select(guard, value, one)
        final = new_stage(names("final_{last}", total.name), rows, valid)
        inverse = new_stage(names("inv_{last}", total.name), rows, one / load(final))
        made += [final, inverse]
        products = [_multiplied(output.value, total, load(inverse), lazy) for output in outputs]
        outputs = tuple(
            replace(output, value=with_equal(product, read, load(final)))
            for output, product in zip(outputs, products, strict=True)
        )
    return replace(passes, after=(*made, *outputs))


def stage_outputs(passes: OnePass, wanted: Callable[[Stage], bool], names: Names) -> OnePass:
    """``passes`` with those outputs that are ``wanted`` so computed before they are stored.

    They are computed over axes as tiles have them, and stored over their own.
    """
    tiles = [stage for stage in passes.stages if not stage.is_output]
    in_tiles = {axis.var: axis for stage in tiles for axis in stage.axes}
    after: list[Stage] = []
    for stage in passes.after:
        if stage.is_output and wanted(stage):
            own = [
                axis for index in stage.indices for axis in stage.axes if axis.var.same_as(index)
            ]
            axes = [in_tiles.get(axis.var, axis) for axis in own]
            within = _within(passes, stage, [a for a in own if a not in axes])
            staged = new_stage(names("row_{stage}", stage.name), axes, stage.value, within=within)
            after += [staged, replace(stage, value=load(staged))]
        else:
            after.append(stage)
    return replace(passes, after=tuple(after))


def _within(passes: OnePass, output: Stage, extended: Sequence[Axis]) -> Expr | None:
    """Where there is what ``output`` reads of parameters, if not all over its extended axes."""
    made = {stage.buffer for stage in passes.stages}
    read = [load for load in loads(output.value) if load.source not in made]
    exists: list[Any] = [
        axis.var < axis.extent
        for axis in extended
        if any(depends(index, axis.var) for load in read for index in load.indices)
    ]
    return tirx.all(*exists) if exists else None


def _or_nan(condition: Expr, number: Any) -> Any:
    zero, nan = (tirx.const(each, dtype_of(number)) for each in (0.0, math.nan))
    return number + tirx.Select(condition, zero, nan)


def _divided_by(total: Stage, expr: Expr) -> bool:
    return any(equal(each.b, load(total)) for each in found(expr, tirx.Div))


def _as_read(total: Stage, outputs: Sequence[Stage]) -> Expr:
    """``total``; with NaN where it is not above 0, if an output reads it so."""
    defined = _or_nan(load(total) > tirx.const(0.0, dtype_of(total.buffer)), load(total))
    sums = [each for output in outputs for each in found(output.value, tirx.Add)]
    return defined if any(equal(each, defined) for each in sums) else load(total)


def _multiplied(expr: Expr, total: Stage, inverse: Load, lazy: bool) -> Expr:
    """``expr`` with a product where it selects a quotient by ``total``, or 0."""

    def changed(select: Any) -> Expr:
        quotient = select.true_value
        if not (isinstance(quotient, tirx.Div) and _divided_by(total, quotient)):
            return select
        if lazy:
            product: Any = quotient.a * inverse
            return tirx.if_then_else(select.condition, product, select.false_value)
        return tirx.Select(select.condition, quotient.a, select.false_value) * inverse

    return tvm_ffi.structural_map(expr, (tirx.Select, changed))
