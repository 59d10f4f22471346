"""What the four lanes of a row of threads have together: along ``threadIdx.x``, by shuffles."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

_QUAD = """
__device__ __forceinline__ float prefill_quad_{name}(float x) {{
  float other = __shfl_xor_sync(0xffffffffu, x, 1);
  x = {first};
  other = __shfl_xor_sync(0xffffffffu, x, 2);
  return {first};
}}
"""

#: Of two lanes, by what it is called.
_COMBINED = {"max": "fmaxf(x, other)", "sum": "x + other"}


def quad(kind: str, value: Any) -> Any:
    """A call that gives all four lanes their ``max`` or ``sum``, float32.

    All threads of a warp must call it. Calls that do not wait for one another overlap, unlike
    reductions that ask which threads are there.
    """
    source = _QUAD.format(name=kind, first=_COMBINED[kind])
    return T.cuda.func_call(
        f"prefill_quad_{kind}", value, source_code=source, return_type="float32"
    )
