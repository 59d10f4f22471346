"""All threads of a block fill a stretch of global memory, side by side."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

_TYPES = {16: "uint4", 8: "uint2", 4: "uint", 2: "ushort"}

_FILL = """
__device__ __forceinline__ void {name}(void* first, int begin, int count, uint word) {{
  {type} value;
  for (int i = 0; i < {words}; ++i) (({part}*)&value)[i] = ({part})word;
  int threads = blockDim.x * blockDim.y * blockDim.z;
  int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  #pragma unroll 4
  for (int i = thread; i < count; i += threads) (({type}*)first)[begin + i] = value;
}}
"""


def fill(first: Any, begin: Any, count: Any, width: int, word: int) -> Any:
    """A call by which the threads of a block fill a stretch, ``width`` bytes at once.

    Parameters
    ----------
    first : PrimExpr
        Pointer to a multiple of ``width``.
    begin, count : PrimExpr
        From which on, and how many times, ``width`` bytes are filled.
    width : int
        16, 8, 4 or 2.
    word : int
        The 32 bits that are there again and again; two bytes are its lower half.
    """
    name = f"prefill_fill_{width}"
    source = _FILL.format(
        name=name,
        type=_TYPES[width],
        part="ushort" if width == 2 else "uint",
        words=max(width // 4, 1),
    )
    return T.cuda.func_call(name, first, begin, count, T.uint32(word), source_code=source)
