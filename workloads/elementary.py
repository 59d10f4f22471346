"""Two to a power, its inverse and the hyperbolic tangent, in the form that a target computes fast.

LLVM lowers ``exp2``, ``log2`` and ``tanh`` to one call of libm an element, which is slow on
ordinary numbers and ten times slower on zeros and subnormals; polynomials vectorise. The
coefficients are those of Cephes (Moshier, netlib ``cephes/single``: ``exp2f.c``, ``logf.c``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx

# 2^f on [-0.5, 0.5], relative error 1.7e-7.
_EXP2 = (
    1.535336188319500e-4,
    1.339887440266574e-3,
    9.618437357674640e-3,
    5.550332471162809e-2,
    2.402264791363012e-1,
    6.931472028550421e-1,
    1.0,
)

# (log(1 + f) - f + f^2 / 2) / f^3 on [sqrt(1/2) - 1, sqrt(2) - 1].
_LOG = (
    7.0376836292e-2,
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
)

_MANTISSA_BITS = 23
_SQRT_HALF_BITS = 0x3F3504F3  # of float32


@dataclass(frozen=True)
class Elementary:
    """The functions, each from a float32 expression to a float32 expression."""

    exp2: Callable[[Any], Any]
    log2: Callable[[Any], Any]
    tanh: Callable[[Any], Any]


# `exp2f` adds four instructions for subnormal results, which no weight of a softmax needs.
_PTX_EXP2 = """
__device__ __forceinline__ float prefill_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
"""


def _ptx_exp2(x: Any) -> Any:
    """2^x in one instruction, relative error 2^-22; below 2^-126 it is 0."""
    from tvm.backend.cuda.op import cuda_func_call

    return cuda_func_call("prefill_exp2", x, source_code=_PTX_EXP2, return_type="float32")


# `tanh.approx` is one instruction, and off by 2^-11: 0.02 of a score that is capped at 50.
_PTX_TANH = """
__device__ __forceinline__ float prefill_tanh(float x) {
  float power, inverse;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(fabsf(x) * -2.885390082f));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(1.0f + power));
  return copysignf((1.0f - power) * inverse, x);
}
"""


def _ptx_tanh(x: Any) -> Any:
    """The hyperbolic tangent, off by 2e-7 at most; NaN of NaN."""
    from tvm.backend.cuda.op import cuda_func_call

    return cuda_func_call("prefill_tanh", x, source_code=_PTX_TANH, return_type="float32")


def polynomial_exp2(x: Any) -> Any:
    """2^x for ``x <= 0``; 0 from -127 down, and below 2^-126 where x is between; NaN of NaN.

    At -127 the bits of 1 lose an exponent of 127, and none is left.
    """
    # The comparison is false for NaN, which stays. With `<`, LLVM's code is 1 % slower.
    clamped = tirx.Select(x <= _float32(-127.0), _float32(-127.0), x)
    whole = tirx.nearbyint(clamped)
    power = _horner(_EXP2, clamped - whole)
    exponent = tirx.Cast("int32", whole) << _int32(_MANTISSA_BITS)
    return tirx.reinterpret("float32", tirx.reinterpret("int32", power) + exponent)


def polynomial_log2(x: Any) -> Any:
    """Base-2 logarithm of a normal ``x > 0``; NaN of anything that is not above 0."""
    bits = tirx.reinterpret("int32", x)
    exponent = (bits - _int32(_SQRT_HALF_BITS)) >> _int32(_MANTISSA_BITS)
    mantissa = tirx.reinterpret("float32", bits - (exponent << _int32(_MANTISSA_BITS)))
    fraction = mantissa - _float32(1.0)
    square = fraction * fraction
    natural = fraction + square * (fraction * _horner(_LOG, fraction) - _float32(0.5))
    logarithm = natural * _float32(math.log2(math.e)) + tirx.Cast("float32", exponent)
    return tirx.Select(x > _float32(0.0), logarithm, _float32(math.nan))


def polynomial_tanh(x: Any) -> Any:
    """The hyperbolic tangent by :func:`polynomial_exp2`, off by 2e-7 at most; NaN of NaN."""
    power = polynomial_exp2(tirx.abs(x) * _float32(-2.0 * math.log2(math.e)))
    size = (_float32(1.0) - power) / (_float32(1.0) + power)
    return tirx.Select(x < _float32(0.0), _float32(0.0) - size, size)


def _horner(coefficients: Sequence[float], x: Any) -> Any:
    """The polynomial with ``coefficients``, the highest power first."""
    value = _float32(coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + _float32(coefficient)
    return value


def _float32(value: float) -> Any:
    return tirx.const(value, "float32")


def _int32(value: int) -> Any:
    return tirx.const(value, "int32")


#: Vectorises on any CPU.
POLYNOMIALS = Elementary(polynomial_exp2, polynomial_log2, polynomial_tanh)

#: Of NVIDIA's GPUs.
PTX = Elementary(_ptx_exp2, tirx.log2, _ptx_tanh)

#: TVM's own, which every target lowers in its way.
BUILT_IN = Elementary(tirx.exp2, tirx.log2, tirx.tanh)

_OF_KINDS = {"llvm": POLYNOMIALS, "cuda": PTX}


def elementary_of(form: Elementary | str) -> Elementary:
    """The form itself, or the one that a kind of target, by TVM's name for it, computes fast."""
    return form if isinstance(form, Elementary) else _OF_KINDS.get(form, BUILT_IN)
