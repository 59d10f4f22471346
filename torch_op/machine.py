"""What a library needs of the machine that loads it, and what this machine has."""

from __future__ import annotations

import ctypes
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CPU_INFO = Path("/proc/cpuinfo")
_NVML = "libnvidia-ml.so.1"


@dataclass(frozen=True)
class Machine:
    """A machine, as far as it tells; ``None`` stands for what it does not tell.

    Parameters
    ----------
    processor : str
        As the system names its kind, such as ``x86_64``.
    features : frozenset[str], optional
        Of the CPU, as Linux writes them or as LLVM does.
    gpus : tuple[tuple[int, int], ...], optional
        Compute capability of each.
    cuda : tuple[int, int], optional
        The newest CUDA that the driver knows.
    """

    processor: str
    features: frozenset[str] | None = None
    gpus: tuple[tuple[int, int], ...] | None = None
    cuda: tuple[int, int] | None = None


def this_machine() -> Machine:
    """The machine at hand."""
    gpus, cuda = _nvidia()
    return Machine(platform.machine(), _cpu_features(), gpus, cuda)


def lacking(requires: Mapping[str, Any], machine: Machine) -> str:
    """What a machine lacks of what a library needs, in words; empty if it lacks nothing.

    Parameters
    ----------
    requires : Mapping
        ``requires`` of a manifest: ``processor`` and ``features`` (LLVM's name of each, and
        Linux's), or ``arch`` and ``cuda``, the version of CUDA that made its machine code.
    machine : Machine
        What does not tell lacks nothing.

    >>> avx512 = {"processor": "x86_64", "features": {"avx2": "avx2", "avx512bf16": "avx512_bf16"}}
    >>> lacking(avx512, Machine("x86_64", frozenset({"avx2", "fma"})))
    'it needs a CPU with avx2, avx512bf16, and the one of this machine lacks avx512bf16'
    >>> lacking(avx512, Machine("aarch64", frozenset({"asimd"})))
    'it needs a processor of kind x86_64, and this machine has one of kind aarch64'
    >>> lacking({"arch": "sm_90a", "cuda": "12.9"}, Machine("x86_64", gpus=((8, 0),), cuda=(13, 0)))
    'it needs a GPU of compute capability 9.0 exactly (sm_90a), and this machine has 8.0'
    """
    if "arch" in requires:
        return _lacking_of_gpu(requires["arch"], requires["cuda"], machine)
    processor = requires["processor"]
    if processor != machine.processor:
        return (
            f"it needs a processor of kind {processor}, and this machine has one of kind "
            f"{machine.processor}"
        )
    if machine.features is None:
        return ""
    names = requires["features"]
    missing = [name for name, linux in names.items() if not machine.features & {name, linux}]
    if not missing:
        return ""
    return (
        f"it needs a CPU with {', '.join(names)}, and the one of this machine lacks "
        f"{', '.join(missing)}"
    )


def _lacking_of_gpu(arch: str, cuda: str, machine: Machine) -> str:
    if machine.gpus is not None and not any(_runs(arch, gpu) for gpu in machine.gpus):
        found = ", ".join(f"{major}.{minor}" for major, minor in sorted(set(machine.gpus)))
        return (
            f"it needs a GPU of compute capability {_capability(arch)} ({arch}), and this machine "
            f"has {found or 'no GPU'}"
        )
    # Machine code of any minor version runs with a driver of the same major version.
    if machine.cuda is not None and machine.cuda[0] < int(cuda.partition(".")[0]):
        return (
            f"it was made by CUDA {cuda} and needs a driver for CUDA {cuda.partition('.')[0]}.0 or "
            f"newer, and the one of this machine is for CUDA {machine.cuda[0]}.{machine.cuda[1]}"
        )
    return ""


def _runs(arch: str, gpu: tuple[int, int]) -> bool:
    """Whether a GPU runs machine code for an architecture.

    >>> _runs("sm_80", (8, 6)), _runs("sm_86", (8, 0)), _runs("sm_80", (9, 0))
    (True, False, False)
    >>> _runs("sm_90a", (9, 0)), _runs("sm_100a", (10, 3)), _runs("sm_100f", (10, 3))
    (True, False, True)
    """
    major, minor, suffix = _parsed(arch)
    return gpu == (major, minor) if suffix == "a" else gpu[0] == major and gpu[1] >= minor


def _capability(arch: str) -> str:
    major, minor, suffix = _parsed(arch)
    return f"{major}.{minor} exactly" if suffix == "a" else f"{major}.{minor} to {major}.9"


def _parsed(arch: str) -> tuple[int, int, str]:
    found = re.fullmatch(r"sm_(\d+)(\d)([af]?)", arch)
    if found is None:
        raise ValueError(f"{arch!r} is no architecture of CUDA's")
    return int(found[1]), int(found[2]), found[3]


def _cpu_features() -> frozenset[str] | None:
    """As Linux tells them; other systems do not."""
    try:
        text = _CPU_INFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return None if found is None else frozenset(found[1].split())


def _nvidia() -> tuple[tuple[tuple[int, int], ...] | None, tuple[int, int] | None]:
    """GPUs and CUDA version of the driver, from the library of the driver that monitors them.

    CUDA itself would tell too, but a process that has asked it cannot be forked any more.
    """
    try:
        nvml = ctypes.CDLL(_NVML)
    except OSError:
        return None, None
    if nvml.nvmlInit_v2():
        return None, None
    try:
        version, count = ctypes.c_int(), ctypes.c_uint()
        if nvml.nvmlSystemGetCudaDriverVersion(ctypes.byref(version)):
            return None, None
        cuda = version.value // 1000, version.value % 1000 // 10
        if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)):
            return None, cuda
        gpus = [_capability_of(nvml, index) for index in range(count.value)]
    finally:
        nvml.nvmlShutdown()
    return tuple(each for each in gpus if each is not None), cuda


def _capability_of(nvml: Any, index: int) -> tuple[int, int] | None:
    device, major, minor = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_int()
    numbers = ctypes.byref(major), ctypes.byref(minor)
    if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)):
        return None
    if nvml.nvmlDeviceGetCudaComputeCapability(device, *numbers):
        return None
    return major.value, minor.value
