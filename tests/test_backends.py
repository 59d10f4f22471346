"""A kind of target is one object: a new one is found by its entry, an unknown one is refused."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import tvm
from tvm.script import tirx as T
from tvm.target import Target
from typer.testing import CliRunner

from prefilltune.database import TargetKey
from prefilltune.tuning.backends import BACKENDS, Backend, backend_of
from prefilltune.tuning.backends.llvm import LLVM
from prefilltune.tuning.backends.resolving import machine_for, resolve_target
from prefilltune.tuning.building.alignment import refuse_misaligned
from prefilltune.tuning.building.build import build_library
from prefilltune.tuning.cli import app
from prefilltune.tuning.cli.options import TargetOptions, in_usual_dtype
from prefilltune.tuning.cli.targets import choose_spaces, prepare
from prefilltune.tuning.comparing.comparer import bench_of
from prefilltune.tuning.deployment.c_header import c_header
from prefilltune.tuning.errors import InvalidOptionError, UnsupportedTargetError
from prefilltune.tuning.spaces import SPACES, usable_spaces
from prefilltune.tuning.spaces.llvm_fused import LlvmFused
from prefilltune.tuning.target import ResolvedTarget
from prefilltune.workloads import PrefillShape, PrefillSpec

SPEC, SHAPE = PrefillSpec(2, 2, 16, "float32"), PrefillShape(1, 8)


@dataclasses.dataclass(frozen=True)
class _Plain(Backend):
    """TVM's `c` kind: C source, of which a library is compiled as from any other."""

    def resolve(
        self, fields: Mapping[str, Any], threads: int | None, arch: str | None
    ) -> ResolvedTarget:
        return ResolvedTarget(Target(self.kind), TargetKey(self.kind, "c99", "1c"), 1)

    def here(self, key: TargetKey) -> ResolvedTarget | None:
        return self.resolve({}, None, None)

    def device_name(self) -> str:
        return "a C machine"

    def device_facts(self, target: ResolvedTarget) -> Mapping[str, str | float | bool | None]:
        return {"threads": 1}

    def requirements(self, target: Any) -> dict[str, Any]:
        return {"processor": "any", "features": {}}

    def compiler_versions(self) -> dict[str, str]:
        return {"c": "99"}

    def check_tools(self) -> None:
        raise UnsupportedTargetError("no C compiler")

    def default_spaces(
        self, spec: PrefillSpec, shapes: Sequence[PrefillShape], target: ResolvedTarget
    ) -> list[str]:
        return usable_spaces(self.kind)


@T.prim_func(s_tir=True)
def _copy(source: T.Buffer((8,), "float32"), copy: T.Buffer((8,), "float32")):
    T.func_attr({"global_symbol": "main", "tirx.noalias": True})
    for i in range(8):
        with T.sblock("copy"):
            vi = T.axis.spatial(8, i)
            copy[vi] = source[vi]


class _Space(LlvmFused):
    name = "c_fused"
    kinds = frozenset({"c"})


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Backend:
    """Another kind, by one entry."""
    backend = _Plain(
        kind="c",
        engine=LLVM.engine,
        usual_dtype="bfloat16",
        alignment=4,
        device_type=("kDLCPU", 1),
    )
    monkeypatch.setitem(BACKENDS, backend.kind, backend)
    return backend


def test_an_entry_is_all_that_targets_need(plain: Backend) -> None:
    resolved = resolve_target("c")
    assert (resolved.kind, str(resolved.key), resolved.is_here) == ("c", "c-c99-1c", True)
    assert resolve_target('{"kind": "c"}').key == resolved.key
    here = machine_for(resolved.key)
    assert here is not None
    assert here.key == resolved.key
    assert plain.device(resolved) == {"name": "a C machine", "threads": 1}
    assert plain.versions().keys() == {"tvm", "tvm_ffi", "numpy", "c"}


def test_commands_ask_the_backend(plain: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_usual_dtype(SPEC, "c").dtype == "bfloat16"
    assert prepare(TargetOptions("c"), compiler=False).kind == "c"
    with pytest.raises(UnsupportedTargetError, match="no C compiler"):
        prepare(TargetOptions("c"))
    monkeypatch.setitem(SPACES, _Space.name, _Space())
    assert choose_spaces(None, SPEC, [SHAPE], resolve_target("c")) == [_Space.name]
    assert _Space.name not in usable_spaces("llvm")


def test_a_build_asks_the_backend(
    plain: Backend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    packed: list[str] = []
    monkeypatch.setattr(_Plain, "packing", lambda self, host, target: packed.append("c") or {})
    checked = refuse_misaligned(_copy, "c")
    assert "must begin at a multiple of 4 bytes" in str(checked)
    module = tvm.IRModule({"main": _copy})
    path = build_library(module, resolve_target("c").target, str(tmp_path / "kernel.so"))
    assert Path(path).exists()
    assert packed == ["c"]
    assert "#define PREFILL_ALIGNMENT 4" in c_header("libprefill.so", "c", "C", [])


def test_what_a_kind_lacks_is_said(plain: Backend) -> None:
    with pytest.raises(UnsupportedTargetError, match="compares kernels on targets of kind 'c'"):
        bench_of("c")
    with pytest.raises(InvalidOptionError, match="every design space cannot schedule"):
        choose_spaces(None, SPEC, [SHAPE], resolve_target("c"))


def test_an_unknown_kind_is_refused_with_those_there_are() -> None:
    for ask in (backend_of, lambda kind: resolve_target({"kind": kind})):
        with pytest.raises(UnsupportedTargetError, match=r"'vulkan'.*llvm and cuda: choose one"):
            ask("vulkan")
    assert machine_for(TargetKey("vulkan", "any")) is None
    done = CliRunner().invoke(app, ["build", "--target", '{"kind": "vulkan"}', "--heads", "2x16"])
    assert done.exit_code != 0


@pytest.mark.parametrize("module", ["backends", "cli", "plans.status"])
def test_tvm_is_imported_when_it_is_needed_and_not_before(module: str) -> None:
    script = f"import sys, prefilltune.tuning.{module}; sys.exit('tvm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
