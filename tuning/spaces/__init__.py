"""The design spaces by name; a new space is a new file and one entry here."""

from __future__ import annotations

from collections.abc import Sequence

from ...workloads import PrefillShape, PrefillSpec
from ..target import ResolvedTarget
from .cuda_mma import CudaMma
from .cuda_simt import CudaSimt
from .cuda_stock import CudaStock
from .cuda_wgmma import CudaWgmma
from .llvm_fused import LlvmFused
from .llvm_stock import LlvmStock
from .space import DesignSpace, Variant

SPACES: dict[str, DesignSpace] = {
    space.name: space
    for space in (LlvmFused(), LlvmStock(), CudaWgmma(), CudaMma(), CudaSimt(), CudaStock())
}

# The fastest first; a later one is for dtypes and architectures that those before it do not serve.
_CUDA_BY_SPEED = ("cuda_wgmma", "cuda_mma", "cuda_simt")

__all__ = ["SPACES", "DesignSpace", "Variant", "default_spaces", "usable_spaces"]


def usable_spaces(kind: str) -> list[str]:
    """Names of the design spaces for a target kind."""
    return [name for name, space in SPACES.items() if kind in space.kinds]


def default_spaces(
    spec: PrefillSpec, shapes: Sequence[PrefillShape], target: ResolvedTarget
) -> list[str]:
    """Names of the spaces that share a search when none is chosen.

    On a CPU all of them: TVM's stock rules are there to compare with. On a GPU the fastest that
    has variants for every shape: there, the stock rules need minutes for their first candidates.
    """
    if target.kind != "cuda":
        return usable_spaces(target.kind)
    for name in _CUDA_BY_SPEED:
        if all(SPACES[name].variants(spec, shape, target) for shape in shapes):
            return [name]
    return []
