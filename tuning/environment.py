"""What the machine and the installed packages must offer, checked before any work."""

from __future__ import annotations

import importlib.metadata
import math
import os
import shutil
import subprocess
from functools import lru_cache
from typing import TYPE_CHECKING

from .building.nvrtc import nvrtc_version
from .errors import EnvironmentMismatchError
from .target import device_name

if TYPE_CHECKING:
    from .target import ResolvedTarget

_COMPILERS = ("g++", "clang++", "c++")


def check_packages() -> None:
    """Refuse package versions that are known to corrupt a search.

    Raises
    ------
    EnvironmentMismatchError
        If ``apache-tvm`` is not 0.27, or ``apache-tvm-ffi`` is 0.1.15 or newer (MetaSchedule then
        ends in a segmentation fault).
    """
    tvm, ffi = (importlib.metadata.version(name) for name in ("apache-tvm", "apache-tvm-ffi"))
    if _release(tvm)[:2] != (0, 27):
        raise EnvironmentMismatchError(
            f"apache-tvm {tvm} is installed, but prefilltune's records and schedules need 0.27; "
            "run: pip install 'apache-tvm==0.27.*'"
        )
    if not (0, 1, 14) <= _release(ffi)[:3] < (0, 1, 15):
        raise EnvironmentMismatchError(
            f"apache-tvm-ffi {ffi} is installed, with which TVM 0.27's MetaSchedule crashes; "
            "run: pip install 'apache-tvm-ffi>=0.1.14.post0,<0.1.15'"
        )


def check_compiler() -> None:
    """Refuse a machine without a C++ compiler, which links every kernel.

    Raises
    ------
    EnvironmentMismatchError
        If none is on the PATH.
    """
    if not any(shutil.which(name) for name in _COMPILERS):
        raise EnvironmentMismatchError(
            f"no C++ compiler found (looked for {', '.join(_COMPILERS)} on the PATH), and kernels "
            "are linked with one; install it, for example: apt-get install g++"
        )


def versions(kind: str = "llvm") -> dict[str, str]:
    """Versions that a record's time and replay depend on.

    Parameters
    ----------
    kind : str
        Of the target: ``llvm`` or ``cuda``.
    """
    return {**runtime_versions(kind), **compiler_versions(kind)}


def runtime_versions(kind: str) -> dict[str, str]:
    """Of what runs and times kernels, where they are measured."""
    packages = {"tvm": "apache-tvm", "tvm_ffi": "apache-tvm-ffi", "numpy": "numpy"}
    found = {name: importlib.metadata.version(package) for name, package in packages.items()}
    return {**found, **_driver_version()} if kind == "cuda" else found


def compiler_versions(kind: str) -> dict[str, str]:
    """Of what compiles kernels, where they are built."""
    if kind == "cuda":
        return {"nvrtc": nvrtc_version()}
    import tvm_ffi

    return {"llvm": str(tvm_ffi.get_global_func("target.llvm_version_major")())}


def device(target: ResolvedTarget) -> dict[str, str | float | bool | None]:
    """What a record says of the machine that it was measured on.

    Of a GPU, its highest clocks in MHz and its power limit in W are among it, where the driver
    tells.
    """
    facts = _gpu_limits() if target.kind == "cuda" else {"threads": target.threads}
    return {"name": device_name(target.kind), **facts}


@lru_cache
def _driver_version() -> dict[str, str]:
    found = nvidia_smi("driver_version")
    return {"driver": found[0]} if found else {}


@lru_cache
def _gpu_limits() -> dict[str, int]:
    names = ("sm_clock_mhz", "memory_clock_mhz", "power_limit_w")
    found = nvidia_smi("clocks.max.sm", "clocks.max.memory", "power.limit")
    pairs = zip(names, found, strict=False)
    return {name: round(float(text)) for name, text in pairs if _is_number(text)}


def nvidia_smi(*fields: str) -> list[str]:
    """Fields of the first visible GPU; empty without the driver's tool."""
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] or "0"
    query = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            [*query, "--id", gpu], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [field.strip() for field in done.stdout.strip().split(",")]


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _release(version: str) -> tuple[int, ...]:
    """Leading numbers of a version.

    >>> _release('0.1.14.post1')
    (0, 1, 14)
    """
    numbers = []
    for part in version.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
