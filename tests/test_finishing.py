"""A schedule is finished once: its loops are pipelined on the way to the compiler, never again."""

from __future__ import annotations

import dispatch_fixtures as fixtures
import pytest
import tvm
import tvm_ffi
from cuda_schedules import first_proposal

from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building import build, finishing
from prefilltune.tuning.building.finishing import finished
from prefilltune.tuning.building.replaying import replay_record
from prefilltune.tuning.pipeline import pipeline
from prefilltune.workloads import PrefillShape, PrefillSpec, SymbolicShape


def test_a_finished_module_is_pipelined_and_marked() -> None:
    spec, target = PrefillSpec(2, 1, 32, "float16"), resolve_target("cuda", arch="sm_80")
    variant = {"q_tile": 64, "kv_tile": 64}
    scheduled = first_proposal("cuda_mma", variant, spec, PrefillShape(2, 100), target).module
    once = finished(scheduled)
    assert once["main"].attrs["tirx.is_scheduled"]
    assert not tvm_ffi.structural_equal(once["main"].body, scheduled["main"].body)
    assert tvm_ffi.structural_equal(once["main"].body, pipeline(scheduled)["main"].body)
    assert tvm_ffi.structural_equal(finished(once), once)


@pytest.fixture
def pipelined(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the functions that were pipelined."""
    names: list[str] = []

    def noted(module: tvm.IRModule) -> tvm.IRModule:
        names.extend(variable.name_hint for variable in module.functions)
        return pipeline(module)

    monkeypatch.setattr(finishing, "pipeline", noted)
    return names


def test_a_record_is_pipelined_once_on_its_way_to_the_compiler(pipelined: list[str]) -> None:
    entry = fixtures.record(fixtures.SPEC, fixtures.SHORT)
    module = replay_record(entry, SymbolicShape.fresh())
    assert pipelined == ["main"]
    build.generate(module, fixtures.target().target)
    assert pipelined == ["main"]


def test_whatever_is_compiled_was_pipelined(pipelined: list[str]) -> None:
    entry = fixtures.record(fixtures.SPEC, fixtures.SHORT)
    module = replay_record(entry)
    bare = tvm.IRModule({"main": module["main"].without_attr("tirx.is_scheduled")})
    pipelined.clear()
    build.generate(bare, fixtures.target().target)
    assert pipelined == ["main"]
