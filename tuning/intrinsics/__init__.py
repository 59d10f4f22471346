"""Tensor intrinsics of the CUDA design spaces, registered by the names that traces keep."""

from .copies import CHUNK, copy_intrin
from .fragments import FRAGMENT, SHARED, WARP_ROWS
from .gemm import acc_intrin, dot_intrin

__all__ = [
    "CHUNK",
    "FRAGMENT",
    "SHARED",
    "WARP_ROWS",
    "acc_intrin",
    "copy_intrin",
    "dot_intrin",
]
