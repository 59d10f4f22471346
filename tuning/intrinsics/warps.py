"""What the 32 lanes of a warp find out together; all of them must call it."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

#: Lanes of a warp.
LANES = 32

_LANE = """
__device__ __forceinline__ int prefill_lane() {
  int lane;
  asm("mov.u32 %0, %%laneid;" : "=r"(lane));
  return lane;
}
"""

_HELD = """
__device__ __forceinline__ int prefill_held_by(int lane, bool there, bool held) {
  return __popc(__ballot_sync(0xffffffffu, lane == 0 | (there & held)));
}
"""

_FROM = """
__device__ __forceinline__ int prefill_from_lane(int value, int lane) {
  return __shfl_sync(0xffffffffu, value, lane);
}
"""


def lane() -> Any:
    """A call that gives the number of a thread in its warp, int32."""
    return T.cuda.func_call("prefill_lane", source_code=_LANE, return_type="int32")


def held_by(number: Any, there: Any, held: Any) -> Any:
    """A call that gives at how many lanes a condition holds, int32.

    Parameters
    ----------
    number : Expr
        Of the lane; at the first one it holds, whatever is asked there.
    there, held : Expr
        Whether there is anything to ask, and the condition. Both are worked out in any case: a
        branch would keep loads from being started before it.
    """
    return T.cuda.func_call(
        "prefill_held_by", number, there, held, source_code=_HELD, return_type="int32"
    )


def from_lane(value: Any, number: Any) -> Any:
    """A call that gives what an int32 is at a lane."""
    return T.cuda.func_call(
        "prefill_from_lane", value, number, source_code=_FROM, return_type="int32"
    )
