"""Memory that threads are about to read in steps of which each hangs on the one before."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

_TOUCH = """
__device__ __forceinline__ int prefill_touch(const void* words, int count) {
  int threads = blockDim.x * blockDim.y * blockDim.z, all = 0;
  int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  for (int word = thread; word < count; word += threads) {
    int value;
    asm volatile("ld.global.nc.b32 %0, [%1];" : "=r"(value) : "l"((const int*)words + word));
    all ^= value;
  }
  return all;
}
"""


def touch(words: Any, count: Any) -> Any:
    """A call by which the threads of a block load words, each others, and all at once.

    They lie in the multiprocessor's own memory then.

    Returns
    -------
    Call
        Something of what a thread loaded, int32. Where nothing is done with it, nothing is loaded.
    """
    return T.cuda.func_call("prefill_touch", words, count, source_code=_TOUCH, return_type="int32")
