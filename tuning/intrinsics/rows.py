"""A warp writes the rows of a tile that it has computed from shared to global memory."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from .fragments import WARP_ROWS

# Between a warp's own stores and loads no other warp is waited for.
_WRITE = """
__device__ __forceinline__ void {name}(
    const void* tile, void* output, int begin, int end, long long row_bytes) {{
  __syncwarp();
  int lane = threadIdx.y * 4 + threadIdx.x;
  #pragma unroll
  for (int i = 0; i < {count}; ++i) {{
    int chunk = i * 32 + lane;
    int row = threadIdx.z * {warp_rows} + chunk / {chunks}, column = chunk % {chunks} * 16;
    if (chunk < {warp_rows} * {chunks} && row >= begin && row < end)
      *(uint4*)((char*)output + row * row_bytes + column) =
          *(const uint4*)((const char*)tile + row * {stride} + column);
  }}
  __syncwarp();
}}
"""


def write_rows(
    tile: Any, output: Any, begin: Any, end: Any, row_bytes: Any, columns: int, stride: int
) -> Any:
    """A call by which each warp writes its rows of a tile, 16 bytes a thread along them.

    Parameters
    ----------
    tile : PrimExpr
        Pointer to ``[rows, columns]`` of a two-byte dtype in shared memory.
    output : PrimExpr
        Pointer to where the tile's first row goes.
    begin, end : PrimExpr
        From which of the tile's rows on, and before which one, rows are written.
    row_bytes : PrimExpr
        How far apart they go.
    columns, stride : int
        Elements of a row of the tile, and how far rows of it are apart.
    """
    name = f"prefill_write_rows_{columns}_{stride}"
    chunks = columns * 2 // 16
    source = _WRITE.format(
        name=name,
        chunks=chunks,
        count=-(-WARP_ROWS * chunks // 32),
        warp_rows=WARP_ROWS,
        stride=stride * 2,
    )
    return T.cuda.func_call(name, tile, output, begin, end, row_bytes, source_code=source)
