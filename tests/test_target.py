"""What a target text resolves to, and how bad ones are refused."""

from __future__ import annotations

import pytest

from prefilltune.tuning import target as target_module
from prefilltune.tuning.errors import (
    InvalidOptionError,
    UnknownTargetError,
    UnsupportedTargetError,
)
from prefilltune.tuning.target import host_cpu, resolve_target, vector_lanes


def test_llvm_is_this_cpu_with_its_features_and_threads() -> None:
    resolved = resolve_target("llvm", 2)
    assert resolved.kind == "llvm"
    assert resolved.target.attrs["mcpu"] == host_cpu()
    assert int(resolved.target.attrs["num-cores"]) == 2
    assert resolved.threads == 2
    assert str(resolved.key).endswith("-2c")


def test_a_cpu_may_be_named() -> None:
    resolved = resolve_target('{"kind": "llvm", "mcpu": "x86-64-v3", "num-cores": 4}')
    assert (resolved.threads, str(resolved.key)) == (4, "llvm-x86_64_v3-4c")
    assert vector_lanes(resolved.target) == 8
    assert vector_lanes(resolve_target('{"kind": "llvm", "mcpu": "znver4"}').target) == 16


@pytest.mark.parametrize(
    ("hidden", "expected"),
    [
        (("avx512f", "avx512bw", "avx512vl"), "x86-64-v3"),
        (("avx512f", "avx512bw", "avx512vl", "avx2", "fma"), "x86-64-v2"),
        ((), "znver4"),
    ],
)
def test_features_that_a_virtual_machine_hides_are_not_used(
    monkeypatch: pytest.MonkeyPatch, hidden: tuple[str, ...], expected: str
) -> None:
    all_features = target_module._features_of("znver4")
    monkeypatch.setattr(target_module.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(target_module, "_system_cpu", lambda: "znver4")
    monkeypatch.setattr(target_module, "_host_features", lambda: all_features - set(hidden))
    assert host_cpu() == expected


@pytest.mark.parametrize(
    "text", ["lvm", "llvm -mcpu=znver4", '{"kind": "llvm", ', '{"kind": "nosuch"}', "nvidia/nosuch"]
)
def test_unknown_targets(text: str) -> None:
    with pytest.raises(UnknownTargetError, match="write llvm, cuda"):
        resolve_target(text)


def test_unknown_cpu_is_not_accepted_silently() -> None:
    with pytest.raises(UnknownTargetError, match="no CPU that LLVM knows"):
        resolve_target('{"kind": "llvm", "mcpu": "zenver4"}')


def test_other_kinds_are_refused() -> None:
    with pytest.raises(UnsupportedTargetError, match="is of kind 'vulkan'"):
        resolve_target('{"kind": "vulkan"}')


def test_cuda_resolves_with_an_architecture() -> None:
    assert str(resolve_target('{"kind": "cuda", "arch": "sm_90a"}').key) == "cuda-sm_90a"


def test_threads_must_be_positive() -> None:
    with pytest.raises(InvalidOptionError, match="--threads is 0"):
        resolve_target("llvm", 0)
