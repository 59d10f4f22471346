"""What a comparison on a GPU must say about the machine: versions, driver and clocks."""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import dataclass
from functools import cache

from .torch_peers import matrix_product

_CLOCKS = {"sm": "clocks.sm", "memory": "clocks.mem", "sm_max": "clocks.max.sm"}
_LOAD_SECONDS = 1.0


@dataclass(frozen=True)
class DeviceFacts:
    """Of the GPU that a child process runs on.

    Parameters
    ----------
    versions : dict[str, str]
        Of PyTorch, the CUDA and the cuDNN that it uses, and of the driver where known.
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
    }
    gemm = matrix_product(dtype, gemm_size, "cuda")
    torch.cuda.synchronize()
    start = time.perf_counter()
    gemm()
    torch.cuda.synchronize()
    for _ in range(round(_LOAD_SECONDS / (time.perf_counter() - start))):
        gemm()
    found = _ask_driver(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
    torch.cuda.synchronize()
    if "driver_version" in found:
        versions["driver"] = found["driver_version"]
    clocks = {name: found.get(field, "") for name, field in _CLOCKS.items()}
    return DeviceFacts(versions, {k: int(mhz) for k, mhz in clocks.items() if mhz.isdigit()})


def _ask_driver(uuid: str) -> dict[str, str]:
    """Fields of ``nvidia-smi``; none where it is missing or refuses."""
    fields = ("driver_version", *_CLOCKS.values())
    query = ["nvidia-smi", "-i", uuid, f"--query-gpu={','.join(fields)}"]
    if not shutil.which(query[0]):
        return {}
    try:
        done = subprocess.run(
            [*query, "--format=csv,noheader,nounits"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=30,
        )  # fmt: skip
    except subprocess.SubprocessError:
        return {}
    return dict(zip(fields, (each.strip() for each in done.stdout.split(",")), strict=False))
