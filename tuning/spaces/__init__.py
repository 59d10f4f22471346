"""The design spaces by name; a new space is a new file and one entry here."""

from __future__ import annotations

from .cuda_mma import CudaMma
from .cuda_simt import CudaSimt
from .cuda_wgmma import CudaWgmma
from .llvm_fused import LlvmFused
from .llvm_stock import LlvmStock
from .space import DesignSpace, Variant

SPACES: dict[str, DesignSpace] = {
    space.name: space for space in (LlvmFused(), LlvmStock(), CudaWgmma(), CudaMma(), CudaSimt())
}

__all__ = ["SPACES", "DesignSpace", "Variant"]
