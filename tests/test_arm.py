"""What an arm proposes first may come from another process."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
import tvm_ffi

from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.measuring.cpu import tvm_environment
from prefilltune.tuning.measuring.worker import Worker
from prefilltune.tuning.search.arms import Arm, arms_of, sample_arm
from prefilltune.tuning.search.trial_log import Trial
from prefilltune.tuning.spaces import SPACES
from prefilltune.workloads import Case, PrefillShape, PrefillSpec, parse_lengths

SPACE = SPACES["cuda_wgmma"]
CASE = Case(
    PrefillSpec(4, 2, 64, "float16"),
    PrefillShape(2, 256),
    parse_lengths("full"),
)
TARGET = resolve_target("cuda", arch="sm_90a")
VARIANT = {"q_tile": 64, "kv_tile": 64}


def _arm() -> Arm:
    return Arm(CASE, TARGET, SPACE, VARIANT, None, 8, 1)


def _everything(arm: Arm, count: int) -> list[tuple[str, Any]]:
    """Trace and module of every point, ``count`` at a time."""
    found = []
    while proposals := arm.propose(count):
        # A builder receives pickles.
        modules = [pickle.loads(pickle.dumps(each.module)) for each in proposals]
        traces = [json.dumps(each.trace) for each in proposals]
        found += zip(traces, modules, strict=True)
    return found


@pytest.fixture(scope="module")
def expected() -> list[tuple[str, Any]]:
    """Trace and module of every point."""
    return _everything(_arm(), 3)


@pytest.mark.parametrize("earlier", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_sample_and_the_rest_are_the_points_of_the_space_in_its_order(
    earlier: bool, expected: list[tuple[str, Any]]
) -> None:
    sampled = _arm()
    assert len({trace for trace, _ in expected}) == len(expected) > 6
    if earlier:
        trace = json.loads(expected[-1][0])
        sampled.restore([Trial(SPACE.name, VARIANT, trace, run_secs=(1.0,))])
        assert sampled.best == 1.0
    with Worker(tvm_environment(1)) as worker:
        asked = (CASE, TARGET, SPACE.name, VARIANT, 3)
        outcome = worker.call(sample_arm, *asked, timeout=60.0)
    assert outcome.status == "ok", outcome.detail
    sampled.begin(outcome.value)
    found = _everything(sampled, 3)
    assert [trace for trace, _ in found] == [trace for trace, _ in expected]
    for (_, mine), (_, theirs) in zip(found, expected, strict=True):
        assert tvm_ffi.structural_equal(mine, theirs)
    assert sampled.exhausted


def test_variants_that_are_evolved_are_not_sampled() -> None:
    """Such as those of earlier versions, which decided more than can be numbered."""
    target, shape = resolve_target("llvm", 1), PrefillShape(2, 64)
    case = Case(PrefillSpec(2, 1, 64, "float32"), shape, CASE.lens)
    earlier = {"q_tile": 32, "kv_tile": 64, "packed": False}
    assert sample_arm(case, target, "llvm_fused", earlier, 2) is None
    offered, *_ = SPACES["llvm_fused"].variants(case.spec, case.shape, target)
    assert sample_arm(case, target, "llvm_fused", offered, 2) is not None


def test_records_of_tiles_that_a_cpu_is_not_offered_are_replayed() -> None:
    """Those of another level, or of a version before, begin a search, and add no turns to it."""
    target, shape = resolve_target('{"kind": "llvm", "mcpu": "x86-64-v3"}'), PrefillShape(2, 64)
    case = Case(PrefillSpec(2, 1, 64, "float32"), shape, CASE.lens)
    offered = SPACES["llvm_fused"].variants(case.spec, case.shape, target)
    before = {"q_tile": 32, "kv_tile": 64, "packed": False}
    warm = [Trial("llvm_fused", dict(each), [1]) for each in (offered[2], before, offered[0])]
    arms = arms_of(case, target, [SPACES["llvm_fused"]], 8, 1, warm)
    assert [arm.variant for arm in arms[:3]] == [before, offered[2], offered[0]]
    assert [arm.exhausted for arm in arms] == [True] + len(offered) * [False]
