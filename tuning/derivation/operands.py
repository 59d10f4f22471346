"""The pass that gives products operands of their own, of a dtype that is chosen.

A product is a reduction whose summand multiplies two loads. What a load reads of a parameter
becomes a stage over the axes that it depends on, so that a tile of it is copied (and converted)
once; what it reads of another stage is rounded. A choice that only keeps padding out goes: see
:mod:`.tiling`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tvm import tirx
from tvm.ir import TensorLoad
from tvm.script import tirx as T

from ..errors import DerivationError
from .axes import Roles
from .expressions import Load, depends, dtype_of
from .intervals import Intervals
from .naming import Names
from .stages import Axis, Description, Stage, load, new_stage


def stage_operands(
    description: Description, roles: Roles, intervals: Intervals, dtype: str, names: Names
) -> Description:
    """``description`` whose products read stages of ``dtype``.

    Raises
    ------
    DerivationError
        If a factor is no load, or chooses what no row may leave out; if two products read the same.
    """
    stages: list[Stage] = []
    for stage in description.stages:
        if stage.is_product:
            factors = (stage.value.a, stage.value.b)
            sources = [_source(intervals, stage, factor) for factor in factors]
            operands = [_operand(description, roles, stage, s, dtype, names) for s in sources]
            left, right = (
                T.cast(load(operand), dtype_of(factor))
                for operand, factor in zip(operands, factors, strict=True)
            )
            stages += [*operands, replace(stage, value=left * right)]
        else:
            stages.append(stage)
    _require_names(stages)
    return Description(tuple(stages))


def _require_names(stages: Sequence[Stage]) -> None:
    """Schedules look sblocks up by name."""
    names = [stage.name for stage in stages]
    for name in names:
        if names.count(name) > 1:
            raise DerivationError(
                f"two sblocks would be called {name!r}: two products read the same; give each a "
                "parameter, or a stage, of its own"
            )


def _source(intervals: Intervals, product: Stage, factor: Any) -> Load:
    """What ``factor`` reads, without conversions and choices that only keep padding out."""
    read = factor
    while isinstance(read, tirx.Cast):
        read = read.value
    if isinstance(read, tirx.Select) and _is_zero(read.false_value):
        if not intervals.always(read.condition):
            raise DerivationError(
                f"product {product.name!r} reads {read.true_value} where {read.condition}: a "
                "factor may be 0 only outside of the columns that some row sees"
            )
        read = read.true_value
    if not isinstance(read, TensorLoad):
        raise DerivationError(
            f"product {product.name!r} multiplies {factor}: a factor is an element of a parameter "
            "or of a stage, cast or not"
        )
    return read


def _operand(
    description: Description,
    roles: Roles,
    product: Stage,
    read: Load,
    dtype: str,
    names: Names,
) -> Stage:
    source = description.stage_of(read.source)
    if source is None:
        name, axes = names("{stage}_rows", read.source.name), _axes(roles, product, read)
    else:
        name, axes = names("{stage}_operand", source.name), source.axes
    return new_stage(name, axes, T.cast(read, dtype))


def _is_zero(expr: Any) -> bool:
    return isinstance(expr, tirx.FloatImm | tirx.IntImm) and expr.value == 0


def _axes(roles: Roles, product: Stage, read: Load) -> list[Axis]:
    """The axes that ``read`` depends on, in the order of its indices, those outside first."""
    inside = (axis for index in read.indices for axis in product.axes if depends(index, axis.var))
    return list(dict.fromkeys((*roles.outer, *inside)))
