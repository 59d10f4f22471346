"""Whether a number of a warp lies above a limit, asked of bits: two numbers an instruction.

Bits of numbers that are not negative, as integers, are in the order of the numbers, those of NaN
above all; bits of negative numbers are negative. Hopper compares three integers in one instruction,
and of floats two.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

_LARGEST = """
__device__ __forceinline__ int prefill_largest(int most, float first, float second) {
  return __vimax3_s32(most, __float_as_int(first), __float_as_int(second));
}
"""

_ABOVE = """
__device__ __forceinline__ int prefill_above(int most, float limit) {
  return most > __float_as_int(limit);
}
"""

_ANY = """
__device__ __forceinline__ int prefill_any(int value) {
  return __any_sync(0xffffffffu, value);
}
"""


def largest(most: Any, first: Any, second: Any) -> Any:
    """A call that gives the largest of an int32, not negative, and the bits of two float32."""
    return _call("prefill_largest", _LARGEST, most, first, second)


def above(most: Any, limit: Any) -> Any:
    """A call that asks whether :func:`largest` found more than a float32; 0 or 1, int32.

    It says so of any negative limit: among negative numbers bits tell nothing.
    """
    return _call("prefill_above", _ABOVE, most, limit)


def any_lane(value: Any) -> Any:
    """A call that asks whether a value is not 0 in any lane; 0 or 1 in all of them, int32.

    All threads of a warp must call it.
    """
    return _call("prefill_any", _ANY, value)


def _call(name: str, source: str, *arguments: Any) -> Any:
    return T.cuda.func_call(name, *arguments, source_code=source, return_type="int32")
