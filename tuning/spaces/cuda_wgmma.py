"""Fused attention on Hopper's warpgroup matrix instructions (sm_90a)."""

from __future__ import annotations

from typing import ClassVar

from .tensor_core import TensorCoreSpace


class CudaWgmma(TensorCoreSpace):
    """Both products by ``wgmma``: 64 rows of a query tile a warpgroup."""

    name: ClassVar[str] = "cuda_wgmma"
    unit: ClassVar[str] = "wgmma"
    rows: ClassVar[int] = 64

    def runs_on(self, arch: str) -> bool:
        return arch == "sm_90a"
