"""A warp writes the rows of a tile that it has computed to global memory.

From shared memory, or from fragments: there, four lanes have two elements each of a row's eight, of
one fragment after another. They exchange until each has all eight of one of four fragments.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from .fragments import WARP_ROWS

# Between a warp's own stores and loads no other warp is waited for.
_WRITE = """
__device__ __forceinline__ void {name}(
    const void* tile, void* output, int begin, int end, long long row_bytes, int warp) {{
  __syncwarp();
  int lane = threadIdx.y * 4 + threadIdx.x;
  #pragma unroll
  for (int i = 0; i < {count}; ++i) {{
    int chunk = i * 32 + lane;
    int own = chunk / {chunks}, column = chunk % {chunks} * 16, row = warp * {warp_rows} + own;
{head}    if (chunk < {warp_rows} * {chunks} && row >= begin && row < end)
      *(uint4*)((char*)output + row * row_bytes{of_head} + column) = *(const uint4*)(
          (const char*)tile + (threadIdx.z * {warp_rows} + own) * {stride} + column);
  }}
  __syncwarp();
}}
"""

_WRITE_FRAGMENTS = """
__device__ __forceinline__ void {name}(
    const void* fragments, void* output, int begin, int end, long long row_bytes, int warp) {{
  const unsigned* words = (const unsigned*)fragments;
  bool odd = threadIdx.x & 1, high = threadIdx.x & 2;
  #pragma unroll
  for (int half = 0; half < 2; ++half) {{
    int row = warp * {warp_rows} + half * 8 + threadIdx.y;
{head}    bool some = row >= begin && row < end;
    #pragma unroll
    for (int first = 0; first < {fragments}; first += 4) {{
      unsigned own[4];
      #pragma unroll
      for (int i = 0; i < 4; ++i)
        own[i] = first + i < {fragments} ? words[(first + i) * 2 + half] : 0;
      #pragma unroll
      for (int i = 0; i < 4; i += 2) {{
        unsigned other = __shfl_xor_sync(0xffffffffu, odd ? own[i] : own[i + 1], 1);
        if (odd) own[i] = other; else own[i + 1] = other;
      }}
      #pragma unroll
      for (int i = 0; i < 2; ++i) {{
        unsigned other = __shfl_xor_sync(0xffffffffu, high ? own[i] : own[i + 2], 2);
        if (high) own[i] = other; else own[i + 2] = other;
      }}
      int column = (first + threadIdx.x) * 16;
      if (some && column < {columns} * 2)
        *(uint4*)((char*)output + row * row_bytes{of_head} + column) =
            make_uint4(own[0], own[1], own[2], own[3]);
    }}
  }}
}}
"""


def write_rows(
    tile: Any,
    output: Any,
    begin: Any,
    end: Any,
    row_bytes: Any,
    warp: Any,
    columns: int,
    stride: int,
    heads: int = 1,
) -> Any:
    """A call by which each warp writes its rows of a tile, 16 bytes a thread along them.

    Parameters
    ----------
    tile : PrimExpr
        Pointer to ``[rows, columns]`` of a two-byte dtype in shared memory, 16 rows a warp.
    output : PrimExpr
        Pointer to where the tile's first row goes.
    begin, end : PrimExpr
        From which of a head's rows on, and before which one, rows are written.
    row_bytes : PrimExpr
        How far apart those of a head go.
    warp : PrimExpr
        Of the tile's groups of 16 rows, the one that this warp has computed.
    columns, stride : int
        Elements of a row of the tile, and how far rows of it are apart.
    heads : int
        That share the tile: its rows are the first ones of all, which go side by side, then the
        second ones.
    """
    name = f"prefill_write_rows_{columns}_{stride}{_named(heads)}"
    chunks = columns * 2 // 16
    source = _WRITE.format(
        name=name,
        chunks=chunks,
        count=-(-WARP_ROWS * chunks // 32),
        warp_rows=WARP_ROWS,
        stride=stride * 2,
        **_of_heads(heads, columns),
    )
    return T.cuda.func_call(name, tile, output, begin, end, row_bytes, warp, source_code=source)


def write_fragments(
    fragments: Any,
    output: Any,
    begin: Any,
    end: Any,
    row_bytes: Any,
    warp: Any,
    tile: int,
    columns: int,
    heads: int = 1,
) -> Any:
    """A call by which each warp writes its rows of a tile, 16 bytes a thread along them.

    Parameters
    ----------
    fragments : PrimExpr
        Pointer to what a thread holds of its warp's rows, of a two-byte dtype.
    output, begin, end, row_bytes, warp, heads
        As :func:`write_rows` takes them.
    tile, columns : int
        Elements of a row of the tile, and how many of them are written.
    """
    name = f"prefill_write_fragments_{tile}_{columns}{_named(heads)}"
    source = _WRITE_FRAGMENTS.format(
        name=name,
        fragments=tile // 8,
        columns=columns,
        warp_rows=WARP_ROWS,
        **_of_heads(heads, columns),
    )
    return T.cuda.func_call(
        name, fragments, output, begin, end, row_bytes, warp, source_code=source
    )


def _named(heads: int) -> str:
    return "" if heads == 1 else f"_of{heads}"


def _of_heads(heads: int, columns: int) -> dict[str, str]:
    """What makes a row of the tile one of a head, and says how far that lies from the first one."""
    if heads == 1:
        return {"head": "", "of_head": ""}
    head = f"    int head = (unsigned)row % {heads}u;\n    row = (unsigned)row / {heads}u;\n"
    return {"head": head, "of_head": f" + head * {columns * 2}"}
