"""What a comparison on a GPU says about the peers and the clocks."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache

from ..backends.cuda import nvidia_smi
from .matrix_product import matrix_product
from .peers.registry import PACKAGES, installed_versions

_CLOCKS = {"sm": "clocks.sm", "memory": "clocks.mem", "sm_max": "clocks.max.sm"}
_LOAD_SECONDS = 1.0


@dataclass(frozen=True)
class DeviceFacts:
    """Of the GPU that a child process runs on.

    Parameters
    ----------
    versions : dict[str, str]
        Of PyTorch, the CUDA and the cuDNN that it uses, and the packages of other peers.
    clocks_mhz : dict[str, int]
        Under load, where known.
    """

    versions: dict[str, str]
    clocks_mhz: dict[str, int]


@cache
def device_facts(dtype: str, gemm_size: int) -> DeviceFacts:
    """Ask PyTorch, and the driver while matrix products keep the GPU busy; runs in a worker."""
    import torch  # pyright: ignore[reportMissingImports]  (extra [torch])

    versions = {
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
        **installed_versions(PACKAGES),
    }
    gemm = matrix_product(dtype, gemm_size, "cuda")
    torch.cuda.synchronize()
    start = time.perf_counter()
    gemm()
    torch.cuda.synchronize()
    for _ in range(round(_LOAD_SECONDS / (time.perf_counter() - start))):
        gemm()
    found = nvidia_smi(*_CLOCKS.values())
    torch.cuda.synchronize()
    clocks = {name: mhz for name, mhz in zip(_CLOCKS, found, strict=False) if mhz.isdigit()}
    return DeviceFacts(versions, {name: int(mhz) for name, mhz in clocks.items()})
