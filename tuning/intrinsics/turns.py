"""Two warpgroups take turns at the tensor cores: while one multiplies, the other one does the rest.

Each waits for its turn before it starts products, and gives the other one its turn once they are
started (as in FlashAttention-3, Shah et al. 2024, section 3.1). Barriers 1 and 2 of a block are
theirs; 0 is that of all threads.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

_BEGIN = """
__device__ __forceinline__ void prefill_turns_begin() {
  if (threadIdx.z >= 4) asm volatile("bar.arrive 1, 256;" ::: "memory");
}
"""

_TAKE = """
__device__ __forceinline__ void prefill_turn_take() {
  asm volatile("bar.sync %0, 256;" :: "r"(1 + (threadIdx.z >> 2)) : "memory");
}
"""

_PASS = """
__device__ __forceinline__ void prefill_turn_pass() {
  asm volatile("bar.arrive %0, 256;" :: "r"(2 - (threadIdx.z >> 2)) : "memory");
}
"""


def begin_turns() -> Any:
    """A call that gives the first warpgroup the first turn."""
    return T.cuda.func_call("prefill_turns_begin", source_code=_BEGIN)


def take_turn() -> Any:
    """A call by which a warpgroup waits for its turn."""
    return T.cuda.func_call("prefill_turn_take", source_code=_TAKE)


def pass_turn() -> Any:
    """A call that gives the other warpgroup its turn."""
    return T.cuda.func_call("prefill_turn_pass", source_code=_PASS)
