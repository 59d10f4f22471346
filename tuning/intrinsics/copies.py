"""Copies from global to shared memory: asynchronous ones (``cp.async``, sm_80 and later), or plain.

What a plain one reads passes the registers of its thread, which waits for it.
"""

# TVMScript writes the shapes of buffers where Python has types.
# pyright: reportInvalidTypeForm=false

from __future__ import annotations

import math
from functools import cache

from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T

from .fragments import SHARED, UNTRACKED, in_panel, panel_width, swizzle_mask

#: 16 bytes of a two-byte dtype: what one ``cp.async`` moves at once.
CHUNK = 8

_SOURCE = """
__device__ __forceinline__ void {name}(void* shared, const void* global) {{
  unsigned address = (unsigned)__cvta_generic_to_shared(shared);
  address ^= (address >> 3) & {mask};
  {copy}
}}
"""
_CHUNK_ASYNC = (
    'asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"'
    ' :: "r"(address), "l"(global) : "memory");'
)
_CHUNK_PLAIN = (
    "*(uint4*)((char*)shared + (int)(address - (unsigned)__cvta_generic_to_shared(shared)))"
    " = *(const uint4*)global;"
)


@cache  # parsing takes as long as the rest of a replay
def copy_intrin(dtype: str, columns: int, *, plain: bool = False) -> str:
    """Register the copy of :data:`CHUNK` contiguous elements, started and not waited for.

    Parameters
    ----------
    dtype : str
        Of two bytes.
    columns : int
        Of the tile, whose panels the copy permutes.
    plain : bool
        Whether it passes registers, and has ended with the statement.

    Returns
    -------
    str
        Name of the intrinsic ``shared[0:8] = global[0:8]``.
    """
    width = panel_width(columns)
    name = f"prefill_copy_{'plain_' if plain else ''}{dtype}_w{width}"
    copy = _CHUNK_PLAIN if plain else _CHUNK_ASYNC
    source = _SOURCE.format(name=name, mask=swizzle_mask(width), copy=copy)

    @T.prim_func(s_tir=True)
    def description(src: T.handle, dst: T.handle) -> None:
        A = T.match_buffer(src, (CHUNK,), dtype, offset_factor=1, scope="global")
        B = T.match_buffer(dst, (CHUNK,), dtype, offset_factor=1, scope=SHARED)
        with T.sblock("root"):
            T.reads(A[0:CHUNK])
            T.writes(B[0:CHUNK])
            for i in range(CHUNK):
                with T.sblock("copy"):
                    vi = T.axis.spatial(CHUNK, i)
                    B[vi] = A[vi]

    @T.prim_func(s_tir=True)
    def implementation(src: T.handle, dst: T.handle) -> None:
        A = T.match_buffer(src, (CHUNK,), dtype, offset_factor=1, scope="global")
        B = T.match_buffer(dst, (CHUNK,), dtype, offset_factor=1, scope=SHARED)
        with T.sblock("root"):
            T.reads(A[0:CHUNK])
            T.writes(B[0:CHUNK])
            T.evaluate(
                T.cuda.func_call(
                    name,
                    B.access_ptr(UNTRACKED),
                    T.address_of(A[0]),
                    source_code=source,
                )
            )

    TensorIntrin.register(name, description, implementation, override=True)
    return name


# Of a row, thread by thread along it. Zeros are stored, not read: the size of a source is 0.
_ROW = """
__device__ __forceinline__ void {name}(void* shared, const void* global) {{
  unsigned row = (unsigned)__cvta_generic_to_shared(shared);
  #pragma unroll
  for (int first = 0; first < {pieces}; first += {lanes}) {{
    int byte = (first + (int)threadIdx.x) * {size};
    bool exists = byte < {bytes};
    unsigned address = row + byte / {panel_row} * {panel} + byte % {panel_row};
    address ^= (address >> 3) & {mask};
    const char* source = (const char*)global + (exists ? byte : 0);
    if (byte < {row_bytes}) {{
      {copy}
    }}
  }}
}}
"""
_ASYNC = """asm volatile("cp.async.{cache}.shared.global [%0], [%1], {size}, %2;"
                   :: "r"(address), "l"(source), "r"(exists ? {size} : 0) : "memory");"""
_PLAIN = """{type} piece = {{}};
      if (exists) piece = *(const {type}*)source;
      *({type}*)((char*)shared + (int)(address - row)) = piece;"""
_TYPES = {16: "uint4", 8: "uint2", 4: "unsigned", 2: "unsigned short"}

#: Threads that copy a row together.
_LANES = 4


@cache
def copy_row_intrin(
    dtype: str, rows: int, columns: int, elements: int, *, plain: bool = False
) -> str:
    """Register the copy of a row of ``elements``, zeros behind them; started and not waited for.

    The threads along threadIdx.x share the row. A piece that one copies is as large as rows in
    memory are aligned; of an odd number of elements, it is copied through a register.

    Parameters
    ----------
    dtype : str
        Of two bytes.
    rows, columns : int
        Of the tile, whose panels the copy permutes.
    elements : int
        Of a row in memory; no more than columns.
    plain : bool
        Whether it passes registers, and has ended with the statement.

    Returns
    -------
    str
        Name of the intrinsic, for i below ``columns``:
        ``shared[i // W, 0, i % W] = global[i] if i < elements else 0``.
    """
    width = panel_width(columns)
    name = f"prefill_copy_row_{'plain_' if plain else ''}{dtype}_n{rows}_k{columns}_d{elements}"
    size = 2 * math.gcd(CHUNK, elements)
    if plain or size == 2:
        copy = _PLAIN.format(type=_TYPES[size])
    else:
        copy = _ASYNC.format(cache="cg" if size == 16 else "ca", size=size)
    source = _ROW.format(
        name=name, pieces=columns * 2 // size, lanes=_LANES, size=size, bytes=elements * 2,
        panel_row=width * 2, panel=rows * width * 2, mask=swizzle_mask(width),
        row_bytes=columns * 2, copy=copy,
    )  # fmt: skip
    panels, strides = columns // width, [rows * width, width, 1]

    @T.prim_func(s_tir=True)
    def description(src: T.handle, dst: T.handle) -> None:
        A = T.match_buffer(src, (columns,), dtype, offset_factor=1, scope="global")
        B = T.match_buffer(
            dst, (panels, 1, width), dtype, strides=strides, offset_factor=1, scope=SHARED
        )
        with T.sblock("root"):
            T.reads(A[0:columns])
            T.writes(B[0:panels, 0:1, 0:width])
            for i in range(columns):
                with T.sblock("copy"):
                    vi = T.axis.spatial(columns, i)
                    panel, place = T.meta_var(in_panel(vi, width, columns))
                    B[panel, 0, place] = T.if_then_else(vi < elements, A[vi], T.FloatImm(dtype, 0))

    @T.prim_func(s_tir=True)
    def implementation(src: T.handle, dst: T.handle) -> None:
        A = T.match_buffer(src, (columns,), dtype, offset_factor=1, scope="global")
        B = T.match_buffer(
            dst, (panels, 1, width), dtype, strides=strides, offset_factor=1, scope=SHARED
        )
        with T.sblock("root"):
            T.reads(A[0:columns])
            T.writes(B[0:panels, 0:1, 0:width])
            for _tx in T.thread_binding(_LANES, "threadIdx.x"):
                T.evaluate(
                    T.cuda.func_call(
                        name,
                        B.access_ptr(UNTRACKED),
                        T.address_of(A[0]),
                        source_code=source,
                    )
                )

    TensorIntrin.register(name, description, implementation, override=True)
    return name
