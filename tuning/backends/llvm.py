"""The CPU: LLVM compiles, and a kernel runs on as many threads as its process is given."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...database import TargetKey
from ...workloads import PrefillShape, PrefillSpec, ragged_cpu_baseline
from ..errors import InvalidOptionError, UnknownTargetError
from ..measuring import cpu
from ..measuring.engine import Engine
from ..target import ResolvedTarget, usable_cores
from .backend import Backend

# Vector and fused-multiply features whose absence makes code for a CPU name crash.
_X86_FEATURES = ("sse4.2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl")
_AVX2_FEATURES = ("avx2", "fma", "f16c", "bmi2")
_X86_LEVELS = (
    ("x86-64-v4", (*_AVX2_FEATURES, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")),
    ("x86-64-v3", _AVX2_FEATURES),
    ("x86-64-v2", ("sse4.2", "popcnt")),
    ("x86-64", ()),
)


@dataclass(frozen=True)
class Llvm(Backend):
    """CPU targets."""

    def resolve(
        self, fields: Mapping[str, Any], threads: int | None, arch: str | None
    ) -> ResolvedTarget:
        from tvm.target import Target

        if arch is not None:
            raise InvalidOptionError(
                f"--arch {arch} goes with --target cuda, not with {self.kind!r}"
            )
        mcpu = fields.get("mcpu") or host_cpu()
        if not _knows_cpu(mcpu):
            raise UnknownTargetError(
                f"mcpu {mcpu!r} is no CPU that LLVM knows; leave it out to take this machine's "
                f"({host_cpu()}), or write a name such as x86-64-v3 or znver4"
            )
        wanted = {
            "kind": self.kind,
            "mcpu": mcpu,
            "num-cores": int(fields.get("num-cores", threads or usable_cores())),
            **{name: fields[name] for name in ("mtriple", "mattr") if name in fields},
        }
        if wanted.get("mtriple") == _default_triple():
            del wanted["mtriple"]
        cores = wanted["num-cores"]
        return ResolvedTarget(Target(wanted), TargetKey(self.kind, mcpu, f"{cores}c"), cores)

    def here(self, key: TargetKey) -> ResolvedTarget | None:
        threads = re.fullmatch(r"([1-9]\d{0,5})c", key.device)
        if threads is None or int(threads[1]) > usable_cores():
            return None
        here = self.resolve({}, int(threads[1]), None)
        return here if here.key == key else None

    def device_name(self) -> str:
        info = Path("/proc/cpuinfo")
        if info.exists():
            for line in info.read_text().splitlines():
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
        return platform.processor() or platform.machine()

    def device_facts(self, target: ResolvedTarget) -> Mapping[str, str | float | bool | None]:
        return {"threads": target.threads}

    def compiler_versions(self) -> dict[str, str]:
        import tvm_ffi

        return {"llvm": str(tvm_ffi.get_global_func("target.llvm_version_major")())}

    def default_spaces(
        self, spec: PrefillSpec, shapes: Sequence[PrefillShape], target: ResolvedTarget
    ) -> list[str]:
        """All of them: TVM's stock rules are there to compare with."""
        from ..spaces import usable_spaces

        return usable_spaces(self.kind)


LLVM = Llvm(
    kind="llvm",
    engine=Engine(
        prepare=cpu.prepare,
        check_kernel=cpu.check_kernel,
        check_and_time=cpu.check_and_time,
        time_kernel=cpu.time_kernel,
        baseline=lambda spec, target: ragged_cpu_baseline(spec),
        time_baseline=cpu.time_ragged_baseline,
        timeout=60.0,
        alone=True,
        round_seconds=0.03,
        likeness=4.0,  # what else a CPU is busy with comes on top
    ),
    usual_dtype="float32",
    alignment=64,  # TVM's own promise to LLVM (`kAllocAlignment`)
    device_type=("kDLCPU", 1),
)


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
