"""The pass that multiplies scores by a constant behind their maximum.

The largest of ``x * c`` is ``c`` times the largest ``x``, if ``c`` is a positive constant, and a
masked score is -inf before and after. So the maximum runs over ``x``, and what reads a score
multiplies: an exponential of a difference then costs one fused multiply-add.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tvm import tirx
from tvm.ir import TensorLoad

from .expressions import Buffer, Expr, Load, with_loads
from .one_pass import OnePass
from .stages import Stage


def scale_late(passes: OnePass) -> OnePass:
    """``passes`` with positive constant factors of what is reduced to a maximum behind it."""
    factors: dict[Buffer, Expr] = {}

    def multiplied(load: Load) -> Expr:
        factor = factors.get(load.source)
        return load if factor is None else load * factor

    def changed(stage: Stage) -> Stage:
        scaled = _scaled(stage)
        if scaled is not None and any(_maximum_of(each, stage) for each in passes.first):
            value, factors[stage.buffer] = scaled
            return replace(stage, value=value)
        if _is_maximum(stage) and stage.value.source in factors:
            factors[stage.buffer] = factors[stage.value.source]
            return stage
        return replace(stage, value=with_loads(stage.value, multiplied))

    return passes.changed(changed)


def _scaled(stage: Stage) -> tuple[Expr, Expr] | None:
    """What an elementwise stage stores without its positive factor, and the factor."""
    value: Any = stage.value
    if stage.combine is None and isinstance(value, tirx.Select):
        product = value.true_value
        if isinstance(product, tirx.Mul):
            for one, other in ((product.a, product.b), (product.b, product.a)):
                if isinstance(other, tirx.FloatImm) and other.value > 0:
                    return tirx.Select(value.condition, one, value.false_value), other
    return None


def _is_maximum(stage: Stage) -> bool:
    return stage.combine is tirx.Max and isinstance(stage.value, TensorLoad)


def _maximum_of(stage: Stage, scores: Stage) -> bool:
    return _is_maximum(stage) and stage.value.source.same_as(scores.buffer)
