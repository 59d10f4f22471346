"""The CPU: LLVM compiles, and a kernel runs on as many threads as its process is given."""

from __future__ import annotations

import difflib
import itertools
import json
import platform
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...database import TargetKey, Tier
from ...workloads import PrefillShape, PrefillSpec, ragged_cpu_baseline
from ..errors import InvalidOptionError, UnknownTargetError
from ..measuring import cpu
from ..measuring.engine import Engine
from ..target import ResolvedTarget, usable_cores
from .backend import Backend
from .cpu_features import LINUX_NAMES, cpu_info, told_by_linux, used_by_code
from .half_floats import without_half_floats

_AVX2_FEATURES = ("avx2", "fma", "f16c", "bmi2")
_X86_LEVELS = (
    ("x86-64-v4", (*_AVX2_FEATURES, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")),
    ("x86-64-v3", _AVX2_FEATURES),
    ("x86-64-v2", ("sse4.2", "popcnt")),
    ("x86-64", ()),
)
# Neither the features nor the text of an AArch64 target tell more: NEON is in all of them.
_AARCH64 = "aarch64"
_X86_NAMES, _AARCH64_NAMES = ("x86_64", "amd64"), ("aarch64", "arm64")
#: What LLVM calls the CPU of a level, where it has no name for the level itself.
_MCPU = {_AARCH64: "generic"}

# What assembly holds for debuggers alone: lines among the instructions, and sections at the end.
_OF_DEBUGGERS = re.compile(r"\s*\.(?:loc|cfi_\w+)\b|\.Ltmp\d+:")
_DEBUG_SECTION = re.compile(r'\s*\.section\s+"?\.debug_')


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
        named = fields.get("num-cores")
        if named is not None and threads not in (None, int(named)):
            raise InvalidOptionError(
                f"--threads is {threads}, and the target's num-cores {named}: leave one of them out"
            )
        triple = fields.get("mtriple")
        here = _processor_of(triple) == platform.machine()
        cpu_named = fields.get("mcpu") or ("" if here else "generic")
        mcpu = cpu_named or host_cpu()
        known = _known_cpus(triple)
        if mcpu not in known:
            raise UnknownTargetError(_unknown_cpu(mcpu, triple, known))
        wanted = {
            "kind": self.kind,
            "mcpu": mcpu,
            "num-cores": int(named or threads or usable_cores()),
            **{name: fields[name] for name in ("mtriple", "mattr") if name in fields},
        }
        if wanted.get("mtriple") == _default_triple():
            del wanted["mtriple"]
        cores, target = wanted["num-cores"], Target(wanted)
        levels = _levels_of(target)
        level = None if named or threads or "mattr" in wanted else _level_named(target, cpu_named)
        if level is not None:
            lower = tuple(levels[levels.index(level) + 1 :])
            return ResolvedTarget(target, TargetKey(self.kind, level, "", lower), cores)
        key = TargetKey(self.kind, mcpu, f"{cores}c", tuple(levels))
        return ResolvedTarget(target, key, cores)

    def here(self, key: TargetKey) -> ResolvedTarget | None:
        threads = re.fullmatch(r"([1-9]\d{0,5})c", key.device)
        if threads is None or int(threads[1]) > usable_cores():
            return None
        here = self.resolve({}, int(threads[1]), None)
        return here if here.key == key else None

    def options(self, target: ResolvedTarget) -> list[str]:
        if target.target is None:
            return [self.kind]
        threads = [] if target.threads == usable_cores() else [f"--threads {target.threads}"]
        if target.key == self.resolve({}, target.threads, None).key:
            return [self.kind, *threads]
        fields = json.loads(str(target.target))
        cores = ["num-cores"] if target.key.device else []
        names = ("kind", "mcpu", *cores, "mtriple", "mattr")
        return [json.dumps({name: fields[name] for name in names if name in fields})]

    def device_name(self) -> str:
        for line in cpu_info().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
        return platform.processor() or platform.machine()

    def device_facts(self, target: ResolvedTarget) -> Mapping[str, str | float | bool | None]:
        return {"threads": target.threads}

    def processor(self, target: Any) -> str:
        return _processor_of(target.attrs.get("mtriple"))

    def requirements(self, target: Any) -> dict[str, Any]:
        """The kind of processor, and its features by LLVM's names and by those of Linux."""
        used = used_by_code(_features_of(target))
        return {
            "processor": self.processor(target),
            "features": {name: LINUX_NAMES[name] for name in used},
        }

    def lacking_here(self, target: ResolvedTarget) -> str:
        processor = self.processor(target.target)
        if processor != platform.machine():
            return (
                f"this machine is {platform.machine()} and the target {processor}, so that nothing "
                "can be run or measured here; leave --target out to take this machine, or build a "
                "library here, of what has records; "
                f"run: prefilltune build --target {shlex.quote(self.options(target)[0])} "
                "--model bge-base"
            )
        used = used_by_code(_features_of(target.target))
        missing = [name for name in used if name not in _host_features()]
        if not missing:
            return ""
        return (
            f"code for {target.target.attrs['mcpu']} may use {', '.join(missing)}, which the CPU "
            f"of this machine lacks, so that nothing can be run or measured here; leave the "
            f"target's mcpu out to take this machine's ({host_cpu()})"
        )

    def compiler_versions(self) -> dict[str, str]:
        import tvm_ffi

        return {"llvm": str(tvm_ffi.get_global_func("target.llvm_version_major")())}

    def legalized(self, function: Any, target: Any) -> Any:
        """Without conversions of float16 where the CPU has none."""
        converts = "f16c" in _features_of(target) or self.processor(target) not in _X86_NAMES
        return function if converts else without_half_floats(function)

    def lowered(self, function: Any, target: Any) -> Any:
        return self.legalized(function, target)

    def source(self, host: Any) -> str:
        """Assembly, without what it holds for debuggers."""
        lines = host.inspect_source("asm").splitlines()
        code = itertools.takewhile(lambda line: not _DEBUG_SECTION.match(line), lines)
        return "\n".join(line for line in code if not _OF_DEBUGGERS.match(line))

    def default_spaces(
        self, spec: PrefillSpec, shapes: Sequence[PrefillShape], target: ResolvedTarget
    ) -> list[str]:
        """All that have variants for every shape: TVM's stock rules are there to compare with."""
        from ..spaces import SPACES, usable_spaces

        return [
            name
            for name in usable_spaces(self.kind)
            if all(SPACES[name].variants(spec, shape, target) for shape in shapes)
        ]


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
    alignment=1,  # vectors are read from anywhere
    furthest=Tier.OTHER_TARGET,  # LLVM makes code of any schedule for any CPU
    device_type=("kDLCPU", 1),
    source_language="gas",
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
    if offered.issuperset(used_by_code(_features_of(_target_of(name)))):
        return name
    return next(level for level, needs in _X86_LEVELS if offered.issuperset(needs))


def _system_cpu() -> str:
    import tvm_ffi

    return str(tvm_ffi.get_global_func("target.llvm_get_system_cpu")())


def _host_features() -> set[str]:
    """LLVM asks an x86 CPU itself; of others it knows less than the system tells."""
    import tvm_ffi

    found = tvm_ffi.get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")()
    return {str(name) for name, present in found.items() if int(present)} | told_by_linux(
        cpu_info()
    )


def _features_of(target: Any) -> set[str]:
    import tvm_ffi

    return {str(name) for name in tvm_ffi.get_global_func("target.llvm_get_cpu_features")(target)}


def _target_of(mcpu: str) -> Any:
    from tvm.target import Target

    return Target({"kind": "llvm", "mcpu": mcpu})


def _processor_of(mtriple: Any) -> str:
    return str(mtriple).split("-")[0] if mtriple else platform.machine()


def _known_cpus(mtriple: str | None) -> set[str]:
    """LLVM's names of the CPUs of a processor; this machine's when absent."""
    import tvm_ffi
    from tvm.target import Target

    of = {"kind": "llvm", **({"mtriple": mtriple} if mtriple else {})}
    known = tvm_ffi.get_global_func("target.llvm_get_cpu_archlist")(Target(of))
    return {str(name) for name in known}


def _unknown_cpu(mcpu: str, mtriple: str | None, known: Collection[str]) -> str:
    """What an error says of a CPU that is none of a processor's."""
    if mtriple is None:
        mend = f"leave it out to take this machine's ({host_cpu()}), or write a name such as"
        examples = "x86-64-v3 or znver4, and one of another processor with its mtriple"
    else:
        mend, near = "write one of those, such as", difflib.get_close_matches(mcpu, known)
        examples = ", ".join(near or [_MCPU.get(_AARCH64, "")])
    of = mtriple or platform.machine()
    return f"mcpu {mcpu!r} is no CPU that LLVM knows for {of}; {mend} {examples}"


def _levels_of(target: Any) -> list[str]:
    """The levels whose schedules are for a CPU, the best first.

    The lowest is for CPUs that lack its instructions too: registers are as many and as wide.
    """
    processor = str(target.attrs.get("mtriple") or _default_triple()).split("-")[0]
    if processor in _AARCH64_NAMES:
        return [_AARCH64]
    if processor not in _X86_NAMES:
        return []
    features, levels = _features_of(target), [level for level, needs in _X86_LEVELS if needs]
    had = [level for level, needs in _X86_LEVELS if needs and features.issuperset(needs)]
    return had or levels[-1:]


def _level_named(target: Any, mcpu: str) -> str | None:
    """The level that a target's name of a CPU names, rather than a CPU."""
    return next((each for each in _levels_of(target) if mcpu == _MCPU.get(each, each)), None)


def _default_triple() -> str:
    from tvm.target import Target

    return str(json.loads(str(Target("llvm"))).get("mtriple", ""))
