"""Trials that differ in nothing but how many blocks a multiprocessor shall hold.

A kernel that is asked for one may have two, as long as its registers leave room for them, and is
the same machine code as one that is asked for two. Which of them a search finds faster is chance;
but a compiler that takes a few registers more takes the second block from the one that was not
asked for it, and with that a third of its speed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from ..building.sampled import sampled_for
from ..pipeline.annotations import MIN_BLOCKS
from .trial_log import Trial

Kept = TypeVar("Kept")

# Parts of a time: two that differ by less are of one timing alone, or of several side by side.
_ALONE, _SIDE_BY_SIDE = 0.03, 0.005


def blocks_asked(trial: Trial) -> int:
    """How many blocks a multiprocessor shall hold by a trial; 0 if it does not say."""
    asked = sampled_for(trial.trace).get(MIN_BLOCKS)
    return 0 if asked is None else int(asked.value)


def asking_for_more(one: Trial, trials: Sequence[Trial]) -> Iterator[Trial]:
    """Those of distinct ``trials`` that ask for more blocks than ``one``, like it and as fast.

    As fast as can be said of times that were not taken side by side.
    """
    least, besides = blocks_asked(one), _besides(one)
    for each in trials:
        about_as_fast = each.seconds <= one.seconds * (1 + _ALONE)
        if about_as_fast and _besides(each) == besides and blocks_asked(each) > least:
            yield each


def worth_keeping(ranked: Sequence[tuple[Trial, float, Kept]]) -> list[tuple[Trial, float, Kept]]:
    """Trials without those in whose place another serves.

    Parameters
    ----------
    ranked : sequence of (Trial, float, Kept)
        The fastest first, each with its seconds side by side with the others.

    Returns
    -------
    list of (Trial, float, Kept)
        Of those that are like and as fast as the fastest of them, the one that asks for most
        blocks; and all others. Kept beside it, one that asks for less would be built in its place.
    """
    groups = [_besides(trial) for trial, _, _ in ranked]
    fastest: dict[Any, float] = {}
    most: dict[Any, int] = {}
    for group, (trial, seconds, _) in zip(groups, ranked, strict=True):
        if seconds <= fastest.setdefault(group, seconds) * (1 + _SIDE_BY_SIDE):
            most[group] = max(most.get(group, 0), blocks_asked(trial))
    return [
        each
        for group, each in zip(groups, ranked, strict=True)
        if each[1] > fastest[group] * (1 + _SIDE_BY_SIDE) or blocks_asked(each[0]) == most[group]
    ]


def _besides(trial: Trial) -> tuple[Any, ...]:
    """What a trial is besides the blocks that it asks for."""
    asked = sampled_for(trial.trace).get(MIN_BLOCKS)
    place = None if asked is None else asked.place
    return (trial.arm, *(repr(each) for each in trial.trace[1] if each[0] != place))
