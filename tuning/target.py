"""From what a user calls a target to TVM's Target, the key of its records and the threads used."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..database import TargetKey
from .errors import InvalidOptionError, UnknownTargetError, UnsupportedTargetError

if TYPE_CHECKING:
    from tvm.target import Target

# Vector and fused-multiply features whose absence makes code for a CPU name crash.
_X86_FEATURES = ("sse4.2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl")
_AVX2_FEATURES = ("avx2", "fma", "f16c", "bmi2")
_X86_LEVELS = (
    ("x86-64-v4", (*_AVX2_FEATURES, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")),
    ("x86-64-v3", _AVX2_FEATURES),
    ("x86-64-v2", ("sse4.2", "popcnt")),
    ("x86-64", ()),
)

# What a block may have of shared memory once it has asked for it (CUDA's opt-in maximum).
_SHARED_MEMORY = {
    "sm_75": 65536,
    "sm_80": 166912,
    "sm_86": 101376,
    "sm_87": 166912,
    "sm_89": 101376,
    "sm_90": 232448,
    "sm_100": 232448,
    "sm_103": 232448,
    "sm_120": 101376,
}
_PLAIN_SHARED_MEMORY = 49152
# Words of a device's name that do not tell its speed.
_VENDOR_WORDS = frozenset(
    {"nvidia", "geforce", "tesla", "quadro", "graphics", "device", "generation", "gpu"}
)
_MEMORY_WORDS = re.compile(r"\d+gb|hbm\d?e?|sxm\d?")


@dataclass(frozen=True)
class ResolvedTarget:
    """A target ready for use.

    Parameters
    ----------
    target : tvm.target.Target
        With the CPU's or the GPU's features named.
    key : TargetKey
        Names the folder of the records.
    threads : int
        CPU threads that a kernel runs with; 1 on a GPU target.
    """

    target: Any
    key: TargetKey
    threads: int

    @property
    def kind(self) -> str:
        """``llvm``, ``cuda``, ..."""
        return self.key.kind

    @property
    def is_here(self) -> bool:
        """Whether this machine runs its kernels: the key of a GPU that is elsewhere has no name."""
        return self.kind == "llvm" or bool(self.key.device)


def resolve_target(
    wanted: str | Mapping[str, Any] | Target, threads: int | None = None, arch: str | None = None
) -> ResolvedTarget:
    """Resolve ``llvm``, ``cuda``, a TVM target tag or a target in JSON.

    Parameters
    ----------
    wanted : str, Mapping or tvm.target.Target
        What the user wrote; or TVM's own, or its fields.
    threads : int, optional
        For CPU targets; every core this process may use when absent.
    arch : str, optional
        For CUDA targets, such as ``sm_90a``; the device's when absent.

    Raises
    ------
    UnknownTargetError
        If TVM knows no such target.
    UnsupportedTargetError
        For ``cuda`` without an architecture on a machine without a CUDA device.
    InvalidOptionError
        If ``threads`` is below 1, or ``arch`` is malformed or given for a CPU.
    """
    if threads is not None and threads < 1:
        raise InvalidOptionError(f"--threads is {threads}; it must be 1 or more")
    if isinstance(wanted, Mapping):
        wanted = json.dumps(dict(wanted))
    text = str(wanted)
    fields = _parse(text)
    kind = fields["kind"]
    if kind == "cuda":
        return _resolve_cuda({**fields, **({"arch": arch} if arch else {})})
    if arch is not None:
        raise InvalidOptionError(f"--arch {arch} goes with --target cuda, not with {text!r}")
    if kind == "llvm":
        return _resolve_cpu(fields, threads or usable_cores())
    raise UnsupportedTargetError(
        f"target {text!r} is of kind {kind!r}; prefilltune has design spaces for llvm (this CPU) "
        "and cuda: choose one of these"
    )


def _parse(text: str) -> dict[str, Any]:
    from tvm.target import Target

    if text == "cuda":  # Target("cuda") would ask the driver and invent sm_50 without one
        return {"kind": "cuda"}
    if text == "llvm":
        return {"kind": "llvm"}
    try:
        return json.loads(str(Target(json.loads(text) if text.lstrip().startswith("{") else text)))
    except (ValueError, TypeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else "not a target"
        raise UnknownTargetError(
            f"target {text!r} is unknown ({reason}); write llvm, cuda, a TVM target tag such as "
            'nvidia/nvidia-h100, or JSON such as {"kind": "llvm", "mcpu": "x86-64-v3"}'
        ) from None


def _resolve_cpu(fields: dict[str, Any], threads: int) -> ResolvedTarget:
    from tvm.target import Target

    mcpu = fields.get("mcpu") or host_cpu()
    if not _knows_cpu(mcpu):
        raise UnknownTargetError(
            f"mcpu {mcpu!r} is no CPU that LLVM knows; leave it out to take this machine's "
            f"({host_cpu()}), or write a name such as x86-64-v3 or znver4"
        )
    wanted = {
        "kind": "llvm",
        "mcpu": mcpu,
        "num-cores": int(fields.get("num-cores", threads)),
        **{name: fields[name] for name in ("mtriple", "mattr") if name in fields},
    }
    if wanted.get("mtriple") == _default_triple():
        del wanted["mtriple"]
    threads = wanted["num-cores"]
    return ResolvedTarget(Target(wanted), TargetKey("llvm", mcpu, f"{threads}c"), threads)


def _resolve_cuda(fields: dict[str, Any]) -> ResolvedTarget:
    from tvm.target import Target

    here = _cuda_arch()
    arch = fields.get("arch") or here
    if arch is None:
        raise UnsupportedTargetError(
            "this machine has no CUDA device that TVM can see; cross-compile with `prefilltune "
            "build --target cuda --arch sm_90a`, and tune or compare on a machine with a GPU"
        )
    if not re.fullmatch(r"sm_\d{2,3}[af]?", arch):
        raise InvalidOptionError(f"arch {arch!r} is none of CUDA's; write one such as sm_90a")
    wanted = {
        "kind": "cuda",
        "arch": arch,
        "max_threads_per_block": 1024,
        "max_num_threads": 1024,
        "max_shared_memory_per_block": _shared_memory(arch),
        "thread_warp_size": 32,
    }
    device = canonical_device(device_name("cuda")) if arch == here else ""
    return ResolvedTarget(Target(wanted), TargetKey("cuda", arch, device), 1)


def cuda_device() -> Any:
    """The first CUDA device, or ``None`` where TVM sees none."""
    import tvm

    device: Any = tvm.cuda(0)
    return device if device.exist else None


def _cuda_arch() -> str | None:
    """Of the first device, with the suffix that wgmma and its like need from 9.0 on."""
    device = cuda_device()
    if device is None:
        return None
    major, minor = str(device.compute_version).split(".")
    return f"sm_{major}{minor}" + ("a" if int(major) >= 9 else "")


def _shared_memory(arch: str) -> int:
    return _SHARED_MEMORY.get(arch.rstrip("af"), _PLAIN_SHARED_MEMORY)


def canonical_device(name: str) -> str:
    """The part of a GPU's name that tells its speed, as it stands in a target's key.

    >>> canonical_device("NVIDIA H100 80GB HBM3")
    'h100'
    >>> canonical_device("NVIDIA H100 PCIe")
    'h100_pcie'
    >>> canonical_device("NVIDIA A100-SXM4-40GB")
    'a100'
    >>> canonical_device("NVIDIA GeForce RTX 4090")
    'rtx_4090'
    """
    words = re.findall(r"[a-z0-9]+", name.lower())
    kept = [word for word in words if word not in _VENDOR_WORDS]
    return "_".join(word for word in kept if not _MEMORY_WORDS.fullmatch(word)) or "unknown"


def host_cpu() -> str:
    """LLVM's name of this CPU, or of a subset that this (virtual) machine really offers.

    A virtual machine may hide features of the CPU that LLVM recognises; code for that CPU would
    end in an illegal instruction.
    """
    name = _system_cpu()
    if platform.machine() not in ("x86_64", "AMD64"):
        return name
    offered = _host_features()
    if all(feature in offered for feature in _X86_FEATURES if feature in _features_of(name)):
        return name
    return next(level for level, needs in _X86_LEVELS if offered.issuperset(needs))


def vector_lanes(target: Any) -> int:
    """float32 elements of a vector register of ``target``; 4 without AVX or AVX-512."""
    import tvm_ffi

    has_feature = tvm_ffi.get_global_func("target.llvm_cpu_has_feature")
    wide = ((16, "avx512f"), (8, "avx"))
    return next((lanes for lanes, feature in wide if has_feature(feature, target)), 4)


def _system_cpu() -> str:
    import tvm_ffi

    return str(tvm_ffi.get_global_func("target.llvm_get_system_cpu")())


def _host_features() -> set[str]:
    import tvm_ffi

    found = tvm_ffi.get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")()
    return {str(name) for name, present in found.items() if int(present)}


def _features_of(mcpu: str) -> set[str]:
    import tvm_ffi
    from tvm.target import Target

    found = tvm_ffi.get_global_func("target.llvm_get_cpu_features")(
        Target({"kind": "llvm", "mcpu": mcpu})
    )
    return {str(name) for name in found}


def _knows_cpu(mcpu: str) -> bool:
    import tvm_ffi
    from tvm.target import Target

    known = tvm_ffi.get_global_func("target.llvm_get_cpu_archlist")(Target("llvm"))
    return mcpu in {str(name) for name in known}


def _default_triple() -> str:
    from tvm.target import Target

    return str(json.loads(str(Target("llvm"))).get("mtriple", ""))


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def device_name(kind: str) -> str:
    """What the vendor calls the processor that kernels run on."""
    if kind != "llvm":
        import tvm

        device: Any = tvm.device(kind, 0)
        return str(device.device_name)
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
