"""Numbers that one thread of a block writes to shared memory, and others read."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

_TELL = """
__device__ __forceinline__ void prefill_tell(void* numbers, int place, int number) {
  ((int*)numbers)[place] = number;
}
"""

# The thread that reads is the one by which a warp says later that it has done with a slot, so that
# no other's reading is to be waited for before numbers are written anew.
_TOLD = """
__device__ __forceinline__ int prefill_told(const void* numbers, int place) {
  int number = threadIdx.x + threadIdx.y == 0 ? ((const int*)numbers)[place] : 0;
  return __shfl_sync(0xffffffffu, number, 0);
}
"""


def tell(numbers: Any, place: Any, number: Any) -> Any:
    """A call that writes a number."""
    return T.cuda.func_call("prefill_tell", numbers, place, number, source_code=_TELL)


def told(numbers: Any, place: Any) -> Any:
    """A call that gives a number to all threads of a warp, as its first one reads it, int32."""
    return T.cuda.func_call("prefill_told", numbers, place, source_code=_TOLD, return_type="int32")
