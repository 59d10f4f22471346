"""What a target text resolves to, and how bad ones are refused."""

from __future__ import annotations

import platform
import shlex
from dataclasses import dataclass
from typing import Any

import pytest

from prefilltune.tuning.backends import cuda, llvm
from prefilltune.tuning.backends.cuda import CUDA, canonical_device
from prefilltune.tuning.backends.llvm import LLVM, host_cpu
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.errors import (
    InvalidOptionError,
    UnknownTargetError,
    UnsupportedTargetError,
)
from prefilltune.tuning.target import vector_lanes
from prefilltune.workloads import PrefillShape, PrefillSpec


def test_llvm_is_this_cpu_with_its_features_and_threads() -> None:
    resolved = resolve_target("llvm", 2)
    assert resolved.kind == "llvm"
    assert resolved.target.attrs["mcpu"] == host_cpu()
    assert int(resolved.target.attrs["num-cores"]) == 2
    assert resolved.threads == 2
    assert str(resolved.key).endswith("-2c")


def test_a_library_needs_the_processor_that_it_is_for() -> None:
    named = {"kind": "llvm", "mcpu": "neoverse-n1", "mtriple": "aarch64-linux-gnu"}
    needs = LLVM.requirements(resolve_target(named).target)
    assert needs["processor"] == "aarch64"
    assert needs["features"]["dotprod"] == "asimddp"
    assert LLVM.requirements(resolve_target("llvm").target)["processor"] == platform.machine()


def test_a_cpu_may_be_named() -> None:
    resolved = resolve_target('{"kind": "llvm", "mcpu": "x86-64-v3", "num-cores": 4}')
    assert (resolved.threads, str(resolved.key)) == (4, "llvm-x86_64_v3-4c")
    assert [str(each) for each in resolved.key.portable] == ["llvm-x86_64_v3", "llvm-x86_64_v2"]
    assert vector_lanes(resolved.target) == 8
    assert vector_lanes(resolve_target('{"kind": "llvm", "mcpu": "znver4"}').target) == 16


@pytest.mark.parametrize(
    ("target", "key", "levels"),
    [
        ({"mcpu": "x86-64-v3"}, "llvm-x86_64_v3", ("x86-64-v2",)),
        ({"mcpu": "x86-64-v3", "mattr": ["+avx512f"]}, None, ("x86-64-v3", "x86-64-v2")),
        ({"mcpu": "znver3"}, None, ("x86-64-v3", "x86-64-v2")),
        ({"mcpu": "nehalem"}, None, ("x86-64-v2",)),
        ({"mcpu": "core2"}, None, ("x86-64-v2",)),  # as many registers, as wide
        ({"mcpu": "generic", "mtriple": "aarch64-linux-gnu"}, "llvm-aarch64", ()),
        ({"mcpu": "neoverse-n1", "mtriple": "aarch64-linux-gnu"}, None, ("aarch64",)),
        ({"mtriple": "aarch64-linux-gnu"}, "llvm-aarch64", ()),
        ({"mtriple": "riscv64-linux-gnu"}, None, ()),
    ],
)
def test_the_levels_of_cpus(target: dict[str, Any], key: str | None, levels: tuple[str]) -> None:
    """A level that is named without a number of cores is what portable records are for."""
    resolved = resolve_target({"kind": "llvm", **target})
    assert resolved.key.levels == levels
    assert resolved.is_here
    if key is None:
        assert resolved.key.device == f"{resolved.threads}c"
    else:
        assert str(resolved.key) == key
        (option,) = LLVM.options(resolved)
        assert resolve_target(option).key == resolved.key


@pytest.mark.parametrize(
    ("hidden", "expected"),
    [
        (("avx512vbmi2",), "x86-64-v4"),
        (("gfni", "sha"), "znver4"),
        (("avx512f", "avx512bw", "avx512vl"), "x86-64-v3"),
        (("avx512f", "avx512bw", "avx512vl", "avx2", "fma"), "x86-64-v2"),
        ((), "znver4"),
    ],
)
def test_features_that_a_virtual_machine_hides_are_not_used(
    monkeypatch: pytest.MonkeyPatch, hidden: tuple[str, ...], expected: str
) -> None:
    all_features = llvm._features_of(llvm._target_of("znver4"))
    monkeypatch.setattr(llvm.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(llvm, "_system_cpu", lambda: "znver4")
    monkeypatch.setattr(llvm, "_host_features", lambda: all_features - set(hidden))
    assert host_cpu() == expected


@pytest.mark.parametrize(
    ("offered", "missing"),
    [((), "avx2, bmi, bmi2"), (("avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe"), "")],
)
def test_what_a_cpu_lacks_for_a_target(
    monkeypatch: pytest.MonkeyPatch, offered: tuple[str, ...], missing: str
) -> None:
    older = {"ssse3", "sse4.1", "sse4.2", "popcnt", "avx", "f16c", "fma", "lzcnt", "movbe"}
    monkeypatch.setattr(llvm, "_host_features", lambda: older | set(offered))
    monkeypatch.setattr(llvm, "host_cpu", lambda: "older")
    resolved = resolve_target('{"kind": "llvm", "mcpu": "x86-64-v3"}')
    lacking = LLVM.lacking_here(resolved)
    assert (
        lacking.startswith(f"code for x86-64-v3 may use {missing}, which")
        if missing
        else (lacking == "")
    )


@pytest.mark.parametrize(
    "text", ["lvm", "llvm -mcpu=znver4", '{"kind": "llvm", ', '{"kind": "nosuch"}', "nvidia/nosuch"]
)
def test_unknown_targets(text: str) -> None:
    with pytest.raises(UnknownTargetError, match="write llvm, cuda"):
        resolve_target(text)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"mcpu": "zenver4"}, "leave it out to take this machine's .* such as x86-64-v3"),
        ({"mcpu": "neoverse-n7", "mtriple": "aarch64-linux-gnu"}, "such as neoverse-n"),
        ({"mcpu": "?", "mtriple": "riscv64-linux-gnu"}, "riscv64-linux-gnu; .* such as generic"),
    ],
)
def test_unknown_cpu_is_not_accepted_silently(fields: dict[str, str], words: str) -> None:
    with pytest.raises(UnknownTargetError, match=f"no CPU that LLVM knows for .*{words}"):
        resolve_target({"kind": "llvm", **fields})


def test_another_processor_runs_nothing_here() -> None:
    other = "x86_64" if platform.machine() == "aarch64" else "aarch64"
    mcpu = "x86-64-v2" if other == "x86_64" else "generic"
    target = resolve_target({"kind": "llvm", "mcpu": mcpu, "mtriple": f"{other}-linux-gnu"})
    lacking = LLVM.lacking_here(target)
    assert lacking.startswith(f"this machine is {platform.machine()} and the target {other}, so ")
    _, command = lacking.split("run: prefilltune build --target ")
    assert resolve_target(shlex.split(command)[0]).key == target.key


def test_other_kinds_are_refused() -> None:
    with pytest.raises(UnsupportedTargetError, match="is of kind 'vulkan'"):
        resolve_target('{"kind": "vulkan"}')


def test_cuda_resolves_with_an_architecture() -> None:
    assert str(resolve_target('{"kind": "cuda", "arch": "sm_90a"}').key) == "cuda-sm_90a"


@pytest.mark.parametrize(
    ("arch", "shared_memory"),
    [("sm_90a", 232448), ("sm_80", 166912), ("sm_86", 101376), ("sm_75", 65536), ("sm_70", 49152)],
)
def test_a_gpu_that_is_elsewhere_is_named_by_its_architecture(
    monkeypatch: pytest.MonkeyPatch, arch: str, shared_memory: int
) -> None:
    monkeypatch.setattr(cuda, "cuda_device", lambda: None)
    resolved = resolve_target("cuda", arch=arch)
    assert (str(resolved.key), resolved.is_here) == (f"cuda-{arch}", False)
    levels = {"sm_70": (), "sm_75": ("sm_75",)}
    assert resolved.key.levels == levels.get(arch, ("sm_80", "sm_75"))
    assert resolved.target.attrs["arch"] == arch
    assert int(resolved.target.attrs["max_shared_memory_per_block"]) == shared_memory
    assert int(resolved.target.attrs["max_threads_per_block"]) == 1024


@dataclass
class _H100:
    """What TVM tells of a device."""

    compute_version: str = "9.0"


def test_the_gpu_at_hand_is_named_with_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "cuda_device", _H100)
    monkeypatch.setattr(cuda.Cuda, "device_name", lambda self: "NVIDIA H100 80GB HBM3")
    assert str(resolve_target("cuda").key) == "cuda-sm_90a-h100"
    assert str(resolve_target("cuda", arch="sm_90a").key) == "cuda-sm_90a-h100"
    assert str(resolve_target("cuda", arch="sm_80").key) == "cuda-sm_80"
    assert resolve_target("cuda").is_here
    level = CUDA.at_hand(resolve_target("cuda", arch="sm_80"))
    assert (str(level.key), level.is_here, level.key.levels) == ("cuda-sm_80", True, ("sm_75",))
    assert (level.target.attrs["arch"], level.recorded.attrs["arch"]) == ("sm_90a", "sm_80")
    for target in (level.target, level.recorded):  # a block's, also on GPUs with little of it
        assert int(target.attrs["max_shared_memory_per_block"]) == 101376
    shape = PrefillShape(2, 128)
    for dtype, space in (("float16", "cuda_mma"), ("float32", "cuda_simt")):
        assert CUDA.default_spaces(PrefillSpec(4, 4, 64, dtype), [shape], level) == [space]
    assert CUDA.options(level) == ["cuda", "--arch sm_80"]
    older = CUDA.at_hand(resolve_target("cuda", arch="sm_86"))
    assert (older.is_here, older.recorded) == (False, None)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100_pcie"),
        ("NVIDIA H100 NVL", "h100_nvl"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100 80GB PCIe", "a100_pcie"),
        ("NVIDIA GeForce RTX 4090", "rtx_4090"),
        ("NVIDIA GeForce RTX 3060 Laptop GPU", "rtx_3060_laptop"),
        ("Tesla V100-SXM2-16GB", "v100"),
        ("NVIDIA", "unknown"),
    ],
)
def test_canonical_device_names(name: str, expected: str) -> None:
    assert canonical_device(name) == expected


def test_without_a_gpu_one_line_says_what_can_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "cuda_device", lambda: None)
    with pytest.raises(UnsupportedTargetError, match=r"no CUDA device.*--arch sm_90a") as caught:
        resolve_target("cuda")
    assert "\n" not in str(caught.value)


def test_malformed_architectures() -> None:
    with pytest.raises(InvalidOptionError, match="'hopper'"):
        resolve_target("cuda", arch="hopper")
    with pytest.raises(InvalidOptionError, match="--arch sm_90a goes with --target cuda"):
        resolve_target("llvm", arch="sm_90a")


def test_threads_must_be_positive() -> None:
    with pytest.raises(InvalidOptionError, match="--threads is 0"):
        resolve_target("llvm", 0)
