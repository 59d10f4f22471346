"""Tensor intrinsics of the CUDA design spaces, registered by the names that traces keep."""

from .copies import CHUNK, copy_intrin, copy_row_intrin
from .fragments import (
    FRAGMENT,
    PTX_TYPES,
    SHARED,
    WARP_ROWS,
    WARPGROUP,
    fragment_layout,
    panel_width,
)
from .gemm import JOIN, WAIT, Product, acc_intrin, dot_intrin, with_pending

__all__ = [
    "CHUNK",
    "FRAGMENT",
    "JOIN",
    "PTX_TYPES",
    "SHARED",
    "WAIT",
    "WARP_ROWS",
    "WARPGROUP",
    "Product",
    "acc_intrin",
    "copy_intrin",
    "copy_row_intrin",
    "dot_intrin",
    "fragment_layout",
    "panel_width",
    "with_pending",
]
