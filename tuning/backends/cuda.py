"""NVIDIA's GPUs: TVM writes CUDA source, NVRTC compiles it, and the first device runs it."""

from __future__ import annotations

import math
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ...database import TargetKey
from ...workloads import PrefillShape, PrefillSpec, masked_baseline
from ..errors import InvalidOptionError, UnsupportedTargetError
from ..measuring import cuda
from ..measuring.engine import Engine
from ..target import ResolvedTarget
from .backend import Backend
from .cuda_code import device_source, packed_as_machine_code, stays_source
from .kernel_by_kernel import kernel_by_kernel
from .nvrtc import check_nvrtc, compile_cubin, nvrtc_version

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
# Portable records are of these: for the matrix instructions and copies of Ampere, which all that
# came later has too, and for those of Turing.
_LEVELS = ("sm_80", "sm_75")
# Words of a device's name that do not tell its speed.
_VENDOR_WORDS = frozenset(
    {"nvidia", "geforce", "tesla", "quadro", "graphics", "device", "generation", "gpu"}
)
_MEMORY_WORDS = re.compile(r"\d+gb|hbm\d?e?|sxm\d?")
# The fastest first; a later one is for dtypes and architectures that those before it do not serve.
_SPACES_BY_SPEED = ("cuda_wgmma", "cuda_mma", "cuda_mma_k8", "cuda_simt")
# Mark of a function of which each kernel's buffers are as small as they can be.
_COMPACTED = "prefilltune.compacted"


@dataclass(frozen=True)
class Cuda(Backend):
    """CUDA targets."""

    def resolve(
        self, fields: Mapping[str, Any], threads: int | None, arch: str | None
    ) -> ResolvedTarget:
        from tvm.target import Target

        if threads is not None:
            raise InvalidOptionError(
                f"--threads {threads} is of a CPU's kernels, and the target is {self.kind}; leave "
                "it out"
            )
        here = _arch_here()
        arch = arch or fields.get("arch") or here
        if arch is None:
            raise UnsupportedTargetError(
                "this machine has no CUDA device that TVM can see; tune and compare on a machine "
                "with a GPU, or build here for one that is named, such as an H100; run: "
                "prefilltune build --target cuda --arch sm_90a --model bge-base"
            )
        if not re.fullmatch(r"sm_\d{2,3}[af]?", arch):
            raise InvalidOptionError(f"arch {arch!r} is none of CUDA's; write one such as sm_90a")
        device = canonical_device(self.device_name()) if arch == here else ""
        key = TargetKey(self.kind, arch, device, _levels_of(arch))
        return ResolvedTarget(Target(_fields_of(arch)), key, 1, is_here=arch == here)

    def here(self, key: TargetKey) -> ResolvedTarget | None:
        here = None if cuda_device() is None else self.resolve({}, None, None)
        return here if here is not None and here.key == key else None

    def at_hand(self, target: ResolvedTarget) -> ResolvedTarget:
        """A level is measured on any GPU that came later, in that GPU's own machine code.

        Its kernels take no more shared memory than all GPUs of the level have.
        """
        from tvm.target import Target

        level, here = target.key.arch, _arch_here()
        if target.is_here or here is None or level not in (levels := _levels_of(here)):
            return target
        lower = levels[levels.index(level) + 1 :]
        fields = {**_fields_of(level), "max_shared_memory_per_block": _least_shared_memory(level)}
        return ResolvedTarget(
            Target({**fields, "arch": here}),
            TargetKey(self.kind, level, "", lower),
            1,
            recorded=Target(fields),
        )

    def options(self, target: ResolvedTarget) -> list[str]:
        arch = [] if target.key.device else [f"--arch {target.key.arch}"]
        return [self.kind, *arch]

    def device_name(self) -> str:
        import tvm

        device: Any = tvm.cuda(0)
        # The name comes from the driver, which answers from the runtime's first call on: this one.
        _ = device.exist
        return str(device.device_name)

    def device_facts(self, target: ResolvedTarget) -> Mapping[str, str | float | bool | None]:
        """Its highest clocks in MHz and its power limit in W, where the driver tells."""
        return _limits()

    def requirements(self, target: Any) -> dict[str, Any]:
        """The architecture, and the version of CUDA that makes code for it here."""
        return {"arch": str(target.attrs["arch"]), "cuda": nvrtc_version()}

    def in_words(self, requires: Mapping[str, Any]) -> str:
        major, _, _ = requires["cuda"].partition(".")
        return f"GPUs of {requires['arch']}, with a driver for CUDA {major} or newer"

    def arch_hint(self, key: TargetKey) -> str:
        if key.arch == "sm_90":
            return "name the target's arch sm_90a, without which Hopper's matrix units are shut"
        return ""

    def runtime_versions(self) -> dict[str, str]:
        return {**super().runtime_versions(), **_driver_version()}

    def compiler_versions(self) -> dict[str, str]:
        return {"nvrtc": nvrtc_version()}

    def check_tools(self) -> None:
        check_nvrtc()

    @contextmanager
    def generating(self) -> Iterator[None]:
        from ..intrinsics import fragment_layout

        with fragment_layout(), stays_source():
            yield

    def packing(self, host: Any, target: Any) -> dict[str, Any]:
        """Machine code for the target's architecture, which needs no GPU to be made."""
        cubin = compile_cubin(device_source(host), str(target.attrs["arch"]))
        return {"fpack_imports": packed_as_machine_code(cubin)}

    def source(self, host: Any) -> str:
        """CUDA, as NVRTC is given it."""
        return device_source(host)

    def picked(self, kernels: Any) -> Any:
        """With what keeps any build from unrolling loops, which NVRTC does from a pragma."""
        from tvm import tirx

        zero = tirx.const(0, "int32")
        return tirx.AttrStmt(zero, "pragma_unroll_explicit", zero, kernels)

    def lowered(self, function: Any, target: Any) -> Any:
        """To where matrix fragments are plain registers.

        What comes before in TVM's pipeline has to come first; it finds nothing to do a second time.
        """
        from tvm.s_tir.transform import CompactBufferAllocation

        compacted = kernel_by_kernel(CompactBufferAllocation())
        # Once more at the end, for fragments, of which there are registers by then.
        return _lowered(function, target, compacted, compacted)

    def lowered_alike(self, module: Any, target: Any) -> tuple[Any, list[str]]:
        """Without a pass that takes minutes for many kernels at once, where it is done for each."""
        import tvm
        from tvm.s_tir.transform import CompactBufferAllocation
        from tvm.tirx import PrimFunc

        compact = CompactBufferAllocation()
        done = {
            name: bool((each.attrs or {}).get(_COMPACTED))
            for name, each in module.functions.items()
            if isinstance(each, PrimFunc)
        }
        if not any(done.values()):
            return module, []
        functions = {
            name: each if done.get(name, True) else _lowered(each, target, compact)
            for name, each in module.functions.items()
        }
        return tvm.IRModule(functions, attrs=module.attrs), [compact.info.name]

    def default_spaces(
        self, spec: PrefillSpec, shapes: Sequence[PrefillShape], target: ResolvedTarget
    ) -> list[str]:
        """The fastest that has variants for every shape.

        TVM's stock rules, which need minutes for their first candidates, are left to those who
        ask for them.
        """
        from ..spaces import SPACES

        for name in _SPACES_BY_SPEED:
            if all(SPACES[name].variants(spec, shape, target) for shape in shapes):
                return [name]
        return []


def _lowered(function: Any, target: Any, compaction: Any, *more: Any) -> Any:
    """A PrimFunc, lowered to where matrix fragments are plain registers.

    Parameters
    ----------
    compaction : tvm.transform.Pass
        That which shrinks buffers to what is used of them.
    more : tvm.transform.Pass
        That come last.
    """
    import tvm
    from tvm.s_tir import transform

    from ..intrinsics import fragment_layout

    passes = [
        transform.CanonicalizeLoop(),
        transform.LowerCrossThreadReduction(),
        transform.LowerInitBlock(),
        transform.PlanAndUpdateBufferAllocationLocation(),
        transform.ConvertBlocksToOpaque(),
        transform.LiftThreadBinding(),
        transform.ManifestSharedMemoryLocalStage(),
        compaction,
        transform.LowerAutoCopy(),
        transform.UnifyThreadBinding(),
        transform.LowerMatchBuffer(),
        transform.StmtSimplify(),
        transform.InjectPermutedLayout(),
        transform.AnnotateIrregularLoop(),
        transform.InjectSoftwarePipeline(),
        transform.TransformMmaBufferLayout(),
        *more,
    ]
    with fragment_layout(), target:
        lowered = tvm.transform.Sequential(passes)(tvm.IRModule({"main": function}))
    return lowered["main"].with_attr(_COMPACTED, True)


CUDA = Cuda(
    kind="cuda",
    engine=Engine(
        prepare=cuda.prepare,
        check_kernel=cuda.check_kernel,
        check_and_time=cuda.check_and_time,
        time_kernel=cuda.time_kernel,
        baseline=masked_baseline,
        time_baseline=cuda.time_kernel,
        timeout=20.0,
        alone=False,
        round_seconds=0.01,  # replays between events: no noise of a host to be averaged away
        likeness=1.25,
    ),
    usual_dtype="float16",  # tensor cores have no float32
    alignment=16,  # the widest load of a thread
    device_type=("kDLCUDA", 2),
    # NVRTC unrolls from a pragma: explicit copies make its input three times as long.
    pass_config={"tirx.UnrollLoop": {"explicit_unroll": False}},
    visible_devices="CUDA_VISIBLE_DEVICES",
    masked_baseline=True,
    source_language="cuda",
    source_comment="//",
)


def cuda_device() -> Any:
    """The first CUDA device, or ``None`` where TVM sees none."""
    import tvm

    device: Any = tvm.cuda(0)
    return device if device.exist else None


def _arch_here() -> str | None:
    """Of the first device, with the suffix that wgmma and its like need from 9.0 on."""
    device = cuda_device()
    if device is None:
        return None
    major, minor = str(device.compute_version).split(".")
    return f"sm_{major}{minor}" + ("a" if int(major) >= 9 else "")


def _fields_of(arch: str) -> dict[str, Any]:
    """Of TVM's target."""
    return {
        "kind": "cuda",
        "arch": arch,
        "max_threads_per_block": 1024,
        "max_num_threads": 1024,
        "max_shared_memory_per_block": _shared_memory(arch),
        "thread_warp_size": 32,
    }


def _levels_of(arch: str) -> tuple[str, ...]:
    """The levels whose schedules run on an architecture, the best first."""
    return tuple(level for level in _LEVELS if _number(level) <= _number(arch))


def _number(arch: str) -> int:
    return int("".join(filter(str.isdigit, arch)))


def _least_shared_memory(level: str) -> int:
    """What every architecture from a level on has."""
    later = (each for each in _SHARED_MEMORY if _number(each) >= _number(level))
    return min(map(_shared_memory, later))


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


@lru_cache
def _driver_version() -> dict[str, str]:
    found = nvidia_smi("driver_version")
    return {"driver": found[0]} if found else {}


@lru_cache
def _limits() -> dict[str, int]:
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
