"""How far a search proposes ahead of what has been measured, and in which order arms learn."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import pytest

from prefilltune.tuning.measuring.cpu import Measurement
from prefilltune.tuning.measuring.worker import Outcome
from prefilltune.tuning.search.batching import beside_devices, beside_one_device, on_this_cpu
from prefilltune.tuning.search.candidate import Candidate, verdict
from prefilltune.tuning.search.strategies import Proposal
from prefilltune.tuning.search.trial_log import Trial
from prefilltune.tuning.search.under_way import UnderWay


def test_a_cpu_that_is_timed_does_nothing_else() -> None:
    batching = on_this_cpu(cores=16, threads=8)
    assert batching.alone
    assert batching.sampled_ahead == 0
    assert [batching.left(proposed) for proposed in (0, 32, 10_000)] == [0, 0, 0]
    # Two turns fill a batch, which keeps every core busy: an untried arm's, and a fast one's.
    assert 2 * batching.first_turn == 2 * batching.later_turn == batching.batch == 32


def test_one_device_measures_a_batch_while_the_next_is_sampled() -> None:
    batching = beside_one_device(cores=2)
    assert batching.batch == 8
    assert [batching.left(proposed) for proposed in (0, 16, 10_000)] == [8, 8, 8]


@pytest.mark.parametrize(
    ("devices", "first_turn", "later_turn", "generation"),
    [(2, 2, 8, 8), (8, 2, 8, 16), (16, 4, 16, 32), (64, 8, 64, 32)],
)
def test_with_several_devices_more_is_under_way_later(
    devices: int, first_turn: int, later_turn: int, generation: int
) -> None:
    batching = beside_devices(2, devices)
    turns = (batching.first_turn, batching.later_turn, batching.generation)
    assert turns == (first_turn, later_turn, generation)
    assert batching.one_arm
    few, many = batching.batch + 2 * devices, batching.batch + 6 * devices
    assert [batching.left(n) for n in (0, 2 * few + 2, 10_000)] == [few, few + 1, many]


def test_a_limit_of_trials_leaves_half_of_them_for_refining() -> None:
    assert beside_one_device(2).most_arms(40) == 10
    assert on_this_cpu(2, 2).most_arms(4) == 2


class _Arm:
    def __init__(self) -> None:
        self.learnt: list[tuple[Any, tuple[float, ...]]] = []

    def learn(self, proposals: Sequence[Proposal], run_secs: Sequence[tuple[float, ...]]) -> None:
        self.learnt += zip((each.trace for each in proposals), run_secs, strict=True)


def _candidate(arm: Any, trace: int) -> Candidate:
    return Candidate(arm, Proposal(None, trace), measured=Future())


def _end(candidate: Candidate) -> None:
    secs = (float(candidate.proposal.trace),)
    candidate.trial = Trial("space", {}, candidate.proposal.trace, secs)
    assert candidate.measured is not None
    candidate.measured.set_result(None)


def test_arms_learn_in_the_order_of_batches_whatever_ends_first() -> None:
    arm, under_way = _Arm(), UnderWay()
    candidates = [_candidate(arm, number) for number in range(3)]
    for each in candidates:
        under_way.new_batch().append(each)
    other: Future[None] = Future()
    under_way.add(other)
    _end(candidates[2])
    under_way.settle(left=4)  # which all are
    assert arm.learnt == []
    settling = threading.Thread(target=under_way.settle, kwargs={"left": 2})
    settling.start()
    _end(candidates[1])
    _end(candidates[0])
    settling.join()
    assert arm.learnt == [(0, (0.0,)), (1, (1.0,))]
    other.set_result(None)
    under_way.settle()
    assert arm.learnt[2:] == [(2, (2.0,))]


def test_a_search_that_ends_waits_for_a_batch_that_is_not_full_yet() -> None:
    under_way = UnderWay()
    batch = under_way.new_batch()
    batch.append(_candidate(_Arm(), 0))
    waiting = threading.Thread(target=under_way.wait)
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    _end(batch[0])
    waiting.join()


@pytest.mark.parametrize(
    ("build", "run", "failure"),
    [
        (Outcome("error"), None, "build"),
        (Outcome("timeout"), None, "build timeout"),
        (Outcome("ok"), Outcome("timeout"), "run timeout"),
        (Outcome("ok"), Outcome("error"), "run error"),
        (Outcome("ok"), Outcome("crash"), "crash"),
        (Outcome("ok"), Outcome("ok", Measurement(0.5, ())), "wrong result"),
        (Outcome("ok"), Outcome("ok", Measurement(0.5, (), "launch failure")), "launch failure"),
    ],
)
def test_what_a_candidate_failed_of(build: Outcome, run: Outcome | None, failure: str) -> None:
    assert verdict(build, run or build, 1e-3)["failure"] == failure


def test_a_right_candidate_has_its_times() -> None:
    ran = Outcome("ok", Measurement(1e-5, (1e-3, 2e-3)))
    assert verdict(Outcome("ok"), ran, 1e-3) == {"run_secs": (1e-3, 2e-3)}
