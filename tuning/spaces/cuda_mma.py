"""Fused attention on the matrix instructions of a warp (sm_80 and later)."""

from __future__ import annotations

from typing import ClassVar

from .tensor_core import TensorCoreSpace

_FIRST = 80


class CudaMma(TensorCoreSpace):
    """Both products by ``mma.sync``, their right operands through ``ldmatrix``."""

    name: ClassVar[str] = "cuda_mma"
    unit: ClassVar[str] = "mma"
    rows: ClassVar[int] = 16

    def runs_on(self, arch: str) -> bool:
        return int("".join(filter(str.isdigit, arch))) >= _FIRST
