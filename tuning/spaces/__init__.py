"""The design spaces by name; a new space is a new file and one entry here."""

from __future__ import annotations

from .cuda_mma import CudaMma
from .cuda_mma_k8 import CudaMmaK8
from .cuda_simt import CudaSimt
from .cuda_stock import CudaStock
from .cuda_wgmma import CudaWgmma
from .llvm_amx import LlvmAmx
from .llvm_fused import LlvmFused
from .llvm_stock import LlvmStock
from .space import DesignSpace, Variant

SPACES: dict[str, DesignSpace] = {
    space.name: space
    for space in (
        LlvmFused(),
        LlvmAmx(),
        LlvmStock(),
        CudaWgmma(),
        CudaMma(),
        CudaMmaK8(),
        CudaSimt(),
        CudaStock(),
    )
}

__all__ = ["SPACES", "DesignSpace", "Variant", "usable_spaces"]


def usable_spaces(kind: str) -> list[str]:
    """Names of the design spaces for a target kind."""
    return [name for name, space in SPACES.items() if kind in space.kinds]
