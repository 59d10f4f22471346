"""The pass that makes outputs of what was carried.

A row that sees no column carries what nobody may compute with, and where outputs divide by a value
of the row, one reciprocal serves all elements of the row. So:

- the condition that outputs share, ``Select(valid, x / total, 0)``, goes to the element alone:
  ``Select(valid, x, 0) * inverse``;
- ``final`` is the total where the row is valid, 1 elsewhere, and ``inverse`` is ``1 / final``; if
  an output reads the total as one that is NaN where it is not above 0 (``total + Select(total > 0,
  0, NaN)``), all do: ``x / 0`` of a sum of nothing is NaN as well;
- an output that has one element a row is computed for the whole tile, and stored afterwards: only
  the store is bound to the rows that there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import tvm_ffi
from tvm import tirx

from .expressions import Expr, Load, dtype_of, equal, found, with_equal
from .naming import Names
from .one_pass import OnePass
from .stages import Axis, Stage, load, new_stage


def finish(passes: OnePass, rows: Sequence[Axis], guard: Expr, names: Names) -> OnePass:
    """``passes`` with outputs as they are computed at the end of a tile of rows.

    Parameters
    ----------
    rows : sequence of Axis
        Of a value a row.
    guard : Expr
        Where outputs are no constants.
    """
    made: list[Stage] = []
    outputs = list(passes.after)
    for total in passes.closing:
        if not any(_divided_by(total, output.value) for output in outputs):
            continue
        defined = _as_read(total, outputs)
        one = tirx.const(1, dtype_of(total.buffer))
        valid = tirx.Select(guard, defined, one)
        final = new_stage(names("final_{last}", total.name), rows, valid)
        inverse = new_stage(names("inv_{last}", total.name), rows, one / load(final))
        made += [final, inverse]
        products = [_multiplied(output.value, total, load(inverse)) for output in outputs]
        outputs = [
            replace(output, value=with_equal(product, defined, load(final)))
            for output, product in zip(outputs, products, strict=True)
        ]
    for output in outputs:
        if len(output.axes) > len(rows):
            made.append(output)
        else:
            row = new_stage(names("row_{stage}", output.name), rows, output.value)
            made += [row, replace(output, value=load(row))]
    return replace(passes, after=tuple(made))


def _divided_by(total: Stage, expr: Expr) -> bool:
    return any(equal(each.b, load(total)) for each in found(expr, tirx.Div))


def _as_read(total: Stage, outputs: Sequence[Stage]) -> Expr:
    """``total``; with NaN where it is not above 0, if an output reads it so."""
    zero, nan = (tirx.const(each, dtype_of(total.buffer)) for each in (0.0, math.nan))
    defined = load(total) + tirx.Select(load(total) > zero, zero, nan)
    sums = [each for output in outputs for each in found(output.value, tirx.Add)]
    return defined if any(equal(each, defined) for each in sums) else load(total)


def _multiplied(expr: Expr, total: Stage, inverse: Load) -> Expr:
    """``expr`` with a product where it selects a quotient by ``total``, or 0."""

    def changed(select: Any) -> Expr:
        quotient = select.true_value
        if not (isinstance(quotient, tirx.Div) and _divided_by(total, quotient)):
            return select
        return tirx.Select(select.condition, quotient.a, select.false_value) * inverse

    return tvm_ffi.structural_map(expr, (tirx.Select, changed))
