"""Matrix fragments in registers: the layout that ``mma`` and ``wgmma`` leave their results in.

A buffer of scope :data:`FRAGMENT` is a stack of 16 by 8 tiles spread over the 32 threads of a warp:
thread ``4 * r + c`` holds rows ``r`` and ``r + 8``, columns ``2 * c`` and ``2 * c + 1`` (PTX ISA,
"Matrix Fragments for mma.m16n8k16"). Threads are bound as (4, 8, warps) to threadIdx.x, .y, .z.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tvm
import tvm_ffi

#: Scope of TVM whose lowering keeps 16 by 8 tiles in the registers of a warp.
FRAGMENT = "m16n8k8.matrixC"

#: Scope of the key and value tiles that the matrix instructions read.
SHARED = "shared.dyn"

#: Columns of a tile in shared memory that may lie side by side, by preference: rows of 128, 64 or
#: 32 bytes, which are what the copies write and the matrix instructions read without conflicts.
_PANELS = (64, 32, 16)

#: Access mask that keeps TVM from placing barriers around what the intrinsics order themselves.
UNTRACKED = 0

#: Rows of a tile that one warp holds.
WARP_ROWS = 16

#: Warps that start a product together (``wgmma``).
WARPGROUP = 4

#: What PTX calls the dtypes that tensor cores multiply.
PTX_TYPES = {"float16": "f16", "bfloat16": "bf16"}

_INDEX_MAP = f"tirx.index_map_{FRAGMENT}"


@contextmanager
def fragment_layout() -> Iterator[None]:
    """Let TVM lower :data:`FRAGMENT`, which asks for the position within a thread by a global name.

    TVM registers the same function itself, among hundreds of tensor intrinsics that take long to
    parse, and refuses to do so where it is registered already: it is, here, for a while alone.
    """
    if tvm_ffi.get_global_func(_INDEX_MAP, allow_missing=True) is not None:
        yield
        return
    tvm_ffi.register_global_func(_INDEX_MAP, _position_in_thread)
    try:
        yield
    finally:
        tvm_ffi.registry.remove_global_func(_INDEX_MAP)


def _position_in_thread(position: Any) -> Any:
    row, column = position[0], position[1]
    return tvm.runtime.convert([row // 8 // 2, column // 8, row // 8 % 2, column % 8 % 2])


def panel_width(columns: int) -> int:
    """Columns of a panel of a tile in shared memory.

    A tile ``[rows, columns]`` of a two-byte dtype is stored as panels ``[columns / W, rows, W]``.
    Within a panel, the 16-byte chunks of a row are permuted by the row: bits 4 and up of an address
    are xored with its bits 7 and up, as many as a row of the panel has chunks (the swizzle modes of
    wgmma; PTX ISA, "Shared Memory Matrix Layout"). Only the intrinsics see the permutation.
    """
    return next(width for width in _PANELS if columns % width == 0)


def swizzle_mask(width: int) -> int:
    """Of the address bits that the row permutes, for panels of ``width`` columns."""
    return {64: 0x70, 32: 0x30, 16: 0x10}[width]


def in_panel(column: Any, width: int, columns: int) -> tuple[Any, Any]:
    """Panel of a column, and its place in it; a single panel has no index to compute."""
    return (0, column) if width == columns else (column // width, column % width)
