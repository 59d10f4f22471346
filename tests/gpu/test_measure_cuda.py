"""The measuring child on a real GPU: what is right, what is wrong, and what kills it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gpu_kernels import SHAPE, SPEC, row_kernel

from prefilltune.tuning.backends.cuda import cuda_device
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.build import build_library
from prefilltune.tuning.devices.machine import Wanted
from prefilltune.tuning.devices.opening import pool_of_gpus
from prefilltune.tuning.measuring import cuda as measure_cuda
from prefilltune.tuning.measuring.cpu import Measurement, tvm_environment
from prefilltune.tuning.measuring.kernels import KEPT_SEED, check, fresh_inputs
from prefilltune.tuning.measuring.worker import Worker
from prefilltune.tuning.search.search import Search
from prefilltune.tuning.search.state import Limit
from prefilltune.tuning.search.trial_log import TrialLog
from prefilltune.tuning.spaces import DesignSpace
from prefilltune.tuning.target import ResolvedTarget
from prefilltune.workloads import Case, masked_baseline, parse_lengths

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(cuda_device() is None, reason="no CUDA device that TVM can see"),
]


@pytest.fixture(scope="module")
def target() -> ResolvedTarget:
    return resolve_target("cuda")


@pytest.fixture(scope="module")
def case() -> Case:
    return Case(SPEC, SHAPE, parse_lengths("uniform"))


@pytest.fixture
def runner() -> Iterator[Worker]:
    with Worker(tvm_environment(1)) as worker:
        yield worker


def _measure(
    case: Case, runner: Worker, module: Any, folder: Path, name: str = "kernel.so"
) -> Measurement:
    path = build_library(module, resolve_target("cuda").target, str(folder / name))
    inputs = (case.spec, case.shape, case.batches(), case.check_lens(), case.seed)
    outcome = runner.call(measure_cuda.check_and_time, path, *inputs, math.inf, timeout=120)
    assert outcome.status == "ok", outcome.detail
    return outcome.value


def test_a_right_kernel_is_timed(case: Case, runner: Worker, tmp_path: Path) -> None:
    found = _measure(case, runner, row_kernel(), tmp_path)
    assert (found.failure, found.fatal) == ("", False)
    assert found.error <= 2e-5
    assert len(found.run_secs) >= 5
    assert all(0 < seconds < 1 for seconds in found.run_secs)
    path = str(tmp_path / "kernel.so")
    fresh = fresh_inputs(case, KEPT_SEED)
    checked = check(measure_cuda.check_kernel, case, [path], runner, *fresh)
    assert checked[path].value <= 2e-5
    arguments = (path, case.spec, case.shape, case.batches(), case.seed, 0.01)
    assert runner.call(measure_cuda.time_kernel, *arguments, timeout=60).value > 0


def test_a_wrong_kernel_is_not_timed(case: Case, runner: Worker, tmp_path: Path) -> None:
    found = _measure(case, runner, row_kernel("wrong"), tmp_path)
    assert (found.run_secs, found.failure) == ((), "")
    assert found.error > 1e-3


def test_garbage_in_padding_is_an_error(
    case: Case, target: ResolvedTarget, runner: Worker, tmp_path: Path
) -> None:
    """TVM's own kernel leaves padded rows with whatever the arithmetic gives."""
    baseline = masked_baseline(case.spec, target.target)
    assert _measure(case, runner, baseline, tmp_path).error == math.inf


def test_a_launch_that_the_driver_refuses_leaves_the_child_alive(
    case: Case, runner: Worker, tmp_path: Path
) -> None:
    found = _measure(case, runner, row_kernel("wide"), tmp_path)
    assert (found.failure, found.fatal, found.run_secs) == ("launch failure", False, ())
    assert _measure(case, runner, row_kernel(), tmp_path, "other.so").run_secs


@pytest.mark.parametrize("harm", ["wild", "trap"])
def test_a_fault_is_named_and_its_child_is_of_no_more_use(
    case: Case, runner: Worker, tmp_path: Path, harm: str
) -> None:
    found = _measure(case, runner, row_kernel(harm), tmp_path)
    assert (found.failure, found.fatal) == ("device fault", True)


class _Harmful(DesignSpace):
    """Kernels that are right, wrong, refused and fatal."""

    name, kinds = "harmful", frozenset({"cuda"})

    def variants(self, spec: Any, shape: Any, target: Any) -> list[dict[str, str]]:
        return [{"harm": harm} for harm in ("wild", "", "wide", "trap", "wrong")]

    def describe(self, spec: Any, shape: Any, variant: Any) -> Any:
        return row_kernel(str(variant["harm"]))

    def generator(self, spec: Any, variant: Any) -> Any:
        from tvm.s_tir.meta_schedule.space_generator import ScheduleFn

        return ScheduleFn(lambda sch: None, sch_rules=[], postprocs=[], mutator_probs={})


def test_a_search_survives_every_harm(case: Case, target: ResolvedTarget, tmp_path: Path) -> None:
    log = TrialLog(tmp_path / "log", {})
    with Search(case, target, [_Harmful()], log, lambda state: None) as search:
        state = search.run(Limit(seconds=300))
    assert state.failures == {"device fault": 2, "launch failure": 1, "wrong result": 1}
    assert state.trials == 5
    assert 0 < state.best_seconds < 1
    assert state.baseline_seconds > 0


def test_a_pool_of_gpus_survives_every_harm(
    case: Case, target: ResolvedTarget, tmp_path: Path
) -> None:
    """Its processes see one GPU each, here twice the same, and no harm is laid at their doors."""
    with (
        pool_of_gpus(["0", "0"], Wanted("cuda")) as pool,
        Search(
            case,
            target,
            [_Harmful()],
            TrialLog(tmp_path / "log", {}),
            lambda state: None,
            pool=pool,
        ) as search,
    ):
        state = search.run(Limit(seconds=300))
    assert state.failures == {"device fault": 2, "launch failure": 1, "wrong result": 1}
    assert state.trials == 5
    assert not {"crash", "lost", "garbage"} & state.faults.keys()
    assert state.baseline_seconds > 0
