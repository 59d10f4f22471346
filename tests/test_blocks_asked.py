"""Of trials alike but for the blocks that they ask for, the one that asks for most is kept."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from prefilltune.database import RecordStore, TargetKey, committed_root
from prefilltune.tuning.pipeline.annotations import MIN_BLOCKS
from prefilltune.tuning.search.blocks import asking_for_more, blocks_asked, most_blocks_first
from prefilltune.tuning.search.trial_log import Trial


def committed(target: str) -> Trial:
    """The trial of a committed record of as many choices as there are."""
    entries = RecordStore.open(committed_root(), TargetKey.parse(target)).entries
    entry = max(entries, key=lambda each: len(each.trace[1]))
    return Trial(entry.provenance.space, entry.provenance.variant, entry.trace, (1.0,))


def choices(trial: Trial) -> tuple[int, int]:
    """Where a trace chooses blocks, and where something else."""
    instructions, decisions = trial.trace
    (asked,) = (each[1][1] for each in instructions if each[2] == [MIN_BLOCKS])
    blocks = next(at for at, each in enumerate(instructions) if asked in each[3])
    return blocks, next(at for at, _ in decisions if at != blocks)


GPU = committed("cuda-sm_80")
BLOCKS, OTHER = choices(GPU)


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
        replace(trial(2), failure="build", run_secs=()),
    ]
    assert [*asking_for_more(trial(1), [*others, more, more])] == [more]
    assert not [*asking_for_more(more, [*others, more])]


@pytest.mark.parametrize(
    ("seconds", "order"),
    [
        ((1.0, 1.004, 1.2), [1, 0, 2]),  # as fast: what asks for more comes first
        ((1.0, 1.006, 1.2), [0, 1, 2]),
        ((1.0, 1.001, 1.002), [1, 0, 2]),  # the last is not alike, however fast
    ],
)
def test_the_most_blocks_come_first_of_what_is_as_fast(
    seconds: tuple[float, ...], order: list[int]
) -> None:
    trials = trial(1), trial(2), trial(2, other=1)
    ranked = [(each, secs, at) for at, (each, secs) in enumerate(zip(trials, seconds, strict=True))]
    assert [at for _, _, at in most_blocks_first(ranked)] == order


def test_trials_that_ask_for_nothing_keep_their_order() -> None:
    cpu = committed("llvm-x86_64_v3")
    ranked = [(replace(cpu, variant={"tile": at}), 1.0 + at, at) for at in range(3)]
    assert most_blocks_first(ranked) == ranked
