"""Trials that differ in nothing but how many blocks a multiprocessor shall hold.

A kernel that is asked for one may have two, as long as its registers leave room for them, and is
the same machine code as one that is asked for two. Which of them a search finds faster is chance;
but a compiler that takes a few registers more takes the second block from the one that was not
asked for it, and with that a third of its speed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from ..pipeline.annotations import MIN_BLOCKS
from .trial_log import Trial

Kept = TypeVar("Kept")

# Parts of a time: two that differ by less are of one timing alone, or of several side by side.
_ALONE, _SIDE_BY_SIDE = 0.03, 0.005


def blocks_asked(trial: Trial) -> int:
    """How many blocks a multiprocessor shall hold by a trial; 0 if it does not say."""
    place, numbers = _choice(trial.trace)
    return int(numbers[dict(trial.trace[1])[place]]) if numbers else 0


def asking_for_more(one: Trial, trials: Sequence[Trial]) -> Iterator[Trial]:
    """Successful ``trials`` that ask for more blocks than ``one``, like it and about as fast."""
    least, besides = blocks_asked(one), _besides(one)
    for each in {each.identity: each for each in trials if not each.failure}.values():
        about_as_fast = each.seconds <= one.seconds * (1 + _ALONE)
        if about_as_fast and _besides(each) == besides and blocks_asked(each) > least:
            yield each


def most_blocks_first(
    ranked: Sequence[tuple[Trial, float, Kept]],
) -> list[tuple[Trial, float, Kept]]:
    """Trials in the order in which they are worth keeping.

    Parameters
    ----------
    ranked : sequence of (Trial, float, Kept)
        The fastest first, each with its seconds side by side with the others.

    Returns
    -------
    list of (Trial, float, Kept)
        The same. Before one that others are like and as fast as comes that of them which asks for
        most blocks.
    """
    order: list[int] = []
    for index, (trial, seconds, _) in enumerate(ranked):
        alike = [
            at
            for at, (other, other_seconds, _) in enumerate(ranked)
            if at not in order
            and other_seconds <= seconds * (1 + _SIDE_BY_SIDE)
            and _besides(other) == _besides(trial)
        ]
        if index not in order:
            most = max(alike, key=lambda at: blocks_asked(ranked[at][0]))
            order += dict.fromkeys((most, index))
    return [ranked[index] for index in order]


def _besides(trial: Trial) -> tuple[Any, ...]:
    """What a trial is besides the blocks that it asks for."""
    place, _ = _choice(trial.trace)
    return (trial.arm, *(repr(each) for each in trial.trace[1] if each[0] != place))


def _choice(trace: Any) -> tuple[int, list[int]]:
    """Where a trace chooses how many blocks it asks for, and among which; (-1, []) if nowhere."""
    instructions, _ = trace
    asked = {
        inputs[1]
        for kind, inputs, attributes, _ in instructions
        if kind == "Annotate" and attributes == [MIN_BLOCKS]
    }
    for place, (kind, _, attributes, outputs) in enumerate(instructions):
        if kind == "SampleCategorical" and asked.intersection(outputs):
            return place, attributes[0]
    return -1, []
