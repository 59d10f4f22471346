"""Values that all threads of a warp share, for the compiler to know it.

What is read from memory may be another value for every thread. A tile's place in shared memory that
hangs on such a one costs an instruction for every descriptor, and branches that it decides keep
instructions from being moved across them.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

_UNIFORM = """
__device__ __forceinline__ int prefill_uniform(int value) {
  return __shfl_sync(0xffffffffu, value, 0);
}
"""

# A macro: within a kernel that hides CUDA's `threadIdx` by its own (see backends/cuda_code.py), it
# names that one.
_NUMBER = """
#define prefill_warp_number() ((int)threadIdx.z)
"""


def uniform(value: Any) -> Any:
    """A call that gives the value of the first thread of a warp, int32."""
    return T.cuda.func_call("prefill_uniform", value, source_code=_UNIFORM, return_type="int32")


def warp_number() -> Any:
    """A call that gives ``threadIdx.z``, of blocks in which each warp has one of its own, int32."""
    return T.cuda.func_call("prefill_warp_number", source_code=_NUMBER, return_type="int32")
