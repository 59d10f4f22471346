"""float16 by integer arithmetic, for CPUs that have no instruction for it.

LLVM calls a function of its runtime for each element there, which takes longer than attention. What
is converted here is vectorised with the loop around it, subnormal numbers, infinities and NaN as
IEEE 754 has them. After Giesen (https://gist.github.com/rygorous/2156668).
"""

from __future__ import annotations

from typing import Any

# Of a float32's fraction, the bits that float16 has not; between exponents of the same number.
_SHIFT, _REBIAS = 13, 127 - 15
_SIGN, _INFINITY, _NAN = 0x8000, 0x7C00, 0x7E00
_MAGNITUDE32, _INFINITY32 = 0x7FFFFFFF, 0x7F800000
# A float16 in the upper half of 32 bits, shifted to where float32 has its parts: the bits that are
# its own, and those of its exponent.
_SHIFTED, _PLACED, _EXPONENT = 16 - _SHIFT, 0x8FFFE000, 0x0F800000
#: The least float32 that is infinite in float16 whatever is rounded, and the least normal float16.
_HUGE32, _NORMAL32 = (_REBIAS + 31) << 23, (_REBIAS + 1) << 23
#: 0.5, at which a float32 counts steps of 2^-24 as a subnormal float16 does.
_HALF32 = 126 << 23


def without_half_floats(function: Any) -> Any:
    """A PrimFunc whose conversions between float16 and float32 are integer arithmetic."""
    import tvm_ffi
    from tvm.tirx import Cast

    return function.with_body(tvm_ffi.structural_map(function.body, (Cast, _converted)))


def _converted(cast: Any) -> Any:
    to, of = str(cast.ty), str(cast.value.ty)
    if (to, of) == ("float32", "float16"):
        return _widened(cast.value)
    if (to, of) == ("float16", "float32"):
        return _narrowed(cast.value)
    return cast


def _widened(value: Any) -> Any:
    """A float16 as float32, exact."""
    from tvm import tirx

    high = tirx.Cast("uint32", tirx.reinterpret("uint16", value)) << _u32(16)
    # The sign is copied down with the shift, and kept where a float32 has it.
    shifted = tirx.reinterpret("int32", high) >> tirx.const(_SHIFTED, "int32")
    placed = tirx.reinterpret("uint32", shifted) & _u32(_PLACED)
    # Multiplying normalises what a float16 holds below its least normal number.
    scaled = tirx.reinterpret("float32", placed) * tirx.const(2.0**_REBIAS, "float32")
    is_finite = (placed & _u32(_EXPONENT)) != _u32(_EXPONENT)
    beyond = tirx.Select(is_finite, _u32(0), _u32(_INFINITY32))
    return tirx.reinterpret("float32", tirx.reinterpret("uint32", scaled) | beyond)


def _narrowed(value: Any) -> Any:
    """The float16 nearest to a float32, that with an even fraction of two."""
    from tvm import tirx

    bits = tirx.reinterpret("uint32", value)
    magnitude = bits & _u32(_MAGNITUDE32)
    # Half of the last place, less one where the fraction is even; a carry goes to the exponent.
    odd = (magnitude >> _u32(_SHIFT)) & _u32(1)
    rounded = magnitude - _u32(_REBIAS << 23) + _u32((1 << (_SHIFT - 1)) - 1) + odd
    normal = rounded >> _u32(_SHIFT)
    half = tirx.const(0.5, "float32")
    steps = tirx.reinterpret("uint32", tirx.reinterpret("float32", magnitude) + half)
    small = steps - _u32(_HALF32)
    beyond = tirx.Select(magnitude > _u32(_INFINITY32), _u32(_NAN), _u32(_INFINITY))
    finite = tirx.Select(magnitude < _u32(_NORMAL32), small, normal)
    found = tirx.Select(magnitude < _u32(_HUGE32), finite, beyond)
    signed = found | ((bits >> _u32(16)) & _u32(_SIGN))
    return tirx.reinterpret("float16", tirx.Cast("uint16", signed))


def _u32(value: int) -> Any:
    from tvm import tirx

    return tirx.const(value, "uint32")
