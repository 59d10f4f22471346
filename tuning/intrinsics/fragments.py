"""Matrix fragments in registers: the layout that ``mma`` and ``wgmma`` leave their results in.

A buffer of scope :data:`FRAGMENT` is a stack of 16 by 8 tiles spread over the 32 threads of a warp:
thread ``4 * r + c`` holds rows ``r`` and ``r + 8``, columns ``2 * c`` and ``2 * c + 1`` (PTX ISA,
"Matrix Fragments for mma.m16n8k16"). Threads are bound as (4, 8, warps) to threadIdx.x, .y, .z.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi

#: Scope of TVM whose lowering keeps 16 by 8 tiles in the registers of a warp.
FRAGMENT = "m16n8k8.matrixC"

#: Scope of the key and value tiles that the matrix instructions read.
SHARED = "shared.dyn"

#: Access mask that keeps TVM from placing barriers around what the intrinsics order themselves.
UNTRACKED = 0

#: Rows of a tile that one warp holds.
WARP_ROWS = 16

#: What PTX calls the dtypes that tensor cores multiply.
PTX_TYPES = {"float16": "f16", "bfloat16": "bf16"}

#: TVM's lowering of :data:`FRAGMENT` asks for the position within a thread under this name; TVM
#: registers the same function itself, among hundreds of tensor intrinsics that take long to parse.
_INDEX_MAP = f"tirx.index_map_{FRAGMENT}"


def _position_in_thread(position: Any) -> Any:
    row, column = position[0], position[1]
    return tvm.runtime.convert([row // 8 // 2, column // 8, row // 8 % 2, column % 8 % 2])


if tvm_ffi.get_global_func(_INDEX_MAP, allow_missing=True) is None:
    tvm_ffi.register_global_func(_INDEX_MAP, _position_in_thread)
