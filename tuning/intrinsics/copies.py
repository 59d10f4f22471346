"""Asynchronous copies from global to shared memory (``cp.async``, sm_80 and later)."""

# TVMScript writes the shapes of buffers where Python has types.
# pyright: reportInvalidTypeForm=false

from __future__ import annotations

from functools import cache

from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T

from .fragments import SHARED, UNTRACKED, panel_width, swizzle_mask

#: 16 bytes of a two-byte dtype: what one ``cp.async`` moves at once.
CHUNK = 8

_SOURCE = """
__device__ __forceinline__ void {name}(void* shared, const void* global) {{
  unsigned address = (unsigned)__cvta_generic_to_shared(shared);
  address ^= (address >> 3) & {mask};
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(address), "l"(global) : "memory");
}}
"""


@cache  # parsing takes as long as the rest of a replay
def copy_intrin(dtype: str, columns: int) -> str:
    """Register the copy of :data:`CHUNK` contiguous elements, started and not waited for.

    Parameters
    ----------
    dtype : str
        Of two bytes.
    columns : int
        Of the tile, whose panels the copy permutes.

    Returns
    -------
    str
        Name of the intrinsic ``shared[0:8] = global[0:8]``.
    """
    width = panel_width(columns)
    name = f"prefill_copy_{dtype}_w{width}"
    source = _SOURCE.format(name=name, mask=swizzle_mask(width))

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
