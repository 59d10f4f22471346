"""Fused attention on the matrix instructions of Turing (sm_75), which later GPUs have too."""

from __future__ import annotations

from typing import ClassVar

from .tensor_core import TensorCoreSpace

_FIRST = 75


class CudaMmaK8(TensorCoreSpace):
    """As ``cuda_mma``, by instructions that sum over 8 at a time; copies pass the registers."""

    name: ClassVar[str] = "cuda_mma_k8"
    unit: ClassVar[str] = "mma_k8"
    rows: ClassVar[int] = 16
    dtypes: ClassVar[frozenset[str]] = frozenset({"float16"})

    def runs_on(self, arch: str) -> bool:
        return int("".join(filter(str.isdigit, arch))) >= _FIRST
