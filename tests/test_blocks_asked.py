"""Of trials alike but for the blocks that they ask for, the one that asks for most is kept."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from prefilltune.database import RecordStore, TargetKey, committed_root
from prefilltune.tuning.building.sampled import sampled_for
from prefilltune.tuning.pipeline.annotations import MIN_BLOCKS
from prefilltune.tuning.search.blocks import asking_for_more, blocks_asked, worth_keeping
from prefilltune.tuning.search.trial_log import Trial
from prefilltune.tuning.search.tune import _finalists


def committed(target: str) -> Trial:
    """The trial of a committed record of as many choices as there are."""
    entries = RecordStore.open(committed_root(), TargetKey.parse(target)).entries
    entry = max(entries, key=lambda each: len(each.trace[1]))
    return Trial(entry.provenance.space, entry.provenance.variant, entry.trace, (1.0,))


GPU = committed("cuda-sm_80")
BLOCKS = sampled_for(GPU.trace)[MIN_BLOCKS].place
OTHER = next(place for place, _ in GPU.trace[1] if place != BLOCKS)


def trial(blocks: int, seconds: float = 1.0, other: int = 0, **changes: Any) -> Trial:
    trace = copy.deepcopy(GPU.trace)
    chosen = {BLOCKS: trace[0][BLOCKS][2][0].index(blocks), OTHER: other}
    trace[1] = [[at, chosen.get(at, value)] for at, value in trace[1]]
    return replace(GPU, trace=trace, run_secs=(seconds,), **changes)


def test_a_trace_says_how_many_blocks_it_asks_for() -> None:
    assert [blocks_asked(trial(blocks)) for blocks in (1, 2)] == [1, 2]
    assert blocks_asked(committed("llvm-x86_64_v3")) == 0


def test_what_asks_for_more_and_is_about_as_fast_is_tried_beside() -> None:
    more = trial(2, 1.02)
    others = [
        trial(1),
        trial(2, 1.1),
        trial(2, other=1),
        trial(2, variant={**GPU.variant, "q_tile": 1}),
    ]
    assert [*asking_for_more(trial(1), [*others, more])] == [more]
    assert not [*asking_for_more(more, [*others, more])]


def test_finalists_are_distinct_successes() -> None:
    one, more = trial(1), trial(2, 1.02)
    failed = replace(trial(2, other=1), failure="build", run_secs=())
    assert _finalists([more, one, more, failed, one], GPU.space, keep=1) == [one, more]


@pytest.mark.parametrize(
    ("seconds", "kept"),
    [
        ((1.0, 1.004, 1.2), [1, 2]),  # as fast: what asks for more serves for both
        ((1.0, 1.006, 1.2), [0, 1, 2]),
        ((1.0, 1.001, 1.002), [1, 2]),  # the last is not alike, however fast
        ((1.004, 1.0, 1.2), [1, 2]),
    ],
)
def test_of_what_is_as_fast_the_one_that_asks_for_most_is_kept_alone(
    seconds: tuple[float, ...], kept: list[int]
) -> None:
    trials = trial(1), trial(2), trial(2, other=1)
    timed = [(each, secs, at) for at, (each, secs) in enumerate(zip(trials, seconds, strict=True))]
    ranked = sorted(timed, key=lambda each: each[1])
    assert [at for _, _, at in worth_keeping(ranked)] == kept


def test_trials_that_ask_for_nothing_are_all_kept() -> None:
    cpu = committed("llvm-x86_64_v3")
    ranked = [(replace(cpu, variant={"tile": at}), 1.0 + at, at) for at in range(3)]
    assert worth_keeping(ranked) == ranked
