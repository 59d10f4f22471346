"""Two to the power of x, in the form that a target computes fast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

Exp2 = Callable[[Any], Any]

# Cephes exp2f (Moshier, netlib cephes/single/exp2f.c): 2^f on [-0.5, 0.5], relative error 1.7e-7.
_CEPHES_EXP2F = (
    1.535336188319500e-4,
    1.339887440266574e-3,
    9.618437357674640e-3,
    5.550332471162809e-2,
    2.402264791363012e-1,
    6.931472028550421e-1,
    1.0,
)


def polynomial_exp2(x: Any) -> Any:
    """2^x for float32 ``x <= 0``; below -126 it stays at 2^-126.

    LLVM lowers ``exp2`` to one libm call an element; this form vectorises.
    """

    def const(value: float) -> Any:
        return tirx.const(value, "float32")

    clamped = tirx.max(x, const(-126.0))
    whole = tirx.nearbyint(clamped)
    fraction = clamped - whole
    power = const(_CEPHES_EXP2F[0])
    for coefficient in _CEPHES_EXP2F[1:]:
        power = power * fraction + const(coefficient)
    exponent = tirx.Cast("int32", whole) << tirx.const(23, "int32")
    return tirx.reinterpret("float32", tirx.reinterpret("int32", power) + exponent)


def exp2_for(target_kind: str) -> Exp2:
    """The form of 2^x for a target kind: a polynomial on ``llvm``, the target's own elsewhere."""
    return polynomial_exp2 if target_kind == "llvm" else tirx.exp2
