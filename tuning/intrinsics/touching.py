"""Memory that threads are about to read in steps of which each hangs on the one before."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

# A thread's first word goes through no loop, at whose end it would be waited for. Threads are given
# as numbers, since what launched a kernel would have to be fetched from far away as well.
_TOUCH = """
__device__ __forceinline__ int prefill_touch(const void* words, int count, int x, int y, int z) {
  int threads = x * y * z, word = (threadIdx.z * y + threadIdx.y) * x + threadIdx.x, all = 0;
  if (word < count)
    asm volatile("ld.global.nc.b32 %0, [%1];" : "=r"(all) : "l"((const int*)words + word));
  for (word += threads; word < count; word += threads) {
    int value;
    asm volatile("ld.global.nc.b32 %0, [%1];" : "=r"(value) : "l"((const int*)words + word));
    all ^= value;
  }
  return all;
}
"""


def touch(words: Any, count: Any, threads: tuple[int, int, int]) -> Any:
    """A call by which the threads of a block load words, each others, and all at once.

    They lie in the multiprocessor's own memory then.

    Parameters
    ----------
    threads : tuple of int
        Of the block, (x, y, z).

    Returns
    -------
    Call
        Something of what a thread loaded, int32. Where nothing is done with it, nothing is loaded.
    """
    return T.cuda.func_call(
        "prefill_touch", words, count, *threads, source_code=_TOUCH, return_type="int32"
    )
