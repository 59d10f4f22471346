"""Timing several things against one another on a machine that is never quite still."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

#: Runs its subject for about the given seconds and returns the mean seconds of one call.
Timer = Callable[[float], float]

_SECONDS = 0.03
_PAUSE = 0.005
_SLOW = 8
_SLOW_ROUNDS = 3


@dataclass(frozen=True)
class Result:
    """How a contestant did.

    Parameters
    ----------
    seconds : tuple[float, ...]
        A call, one for each round; empty for a failure.
    error : float or None
        Largest on valid rows; None if it was not checked.
    failure : str
        Why there are no times.
    cold_seconds : tuple[float, ...]
        A call with inputs and outputs that rotate past a cache, one for each round; empty where
        nothing rotates.
    """

    seconds: tuple[float, ...] = ()
    error: float | None = None
    failure: str = ""
    cold_seconds: tuple[float, ...] = ()

    @property
    def ms(self) -> float | None:
        """The median; None for a failure."""
        return statistics.median(self.seconds) * 1e3 if self.seconds else None

    @property
    def cold_ms(self) -> float | None:
        """The median of those that rotate; None without any."""
        return statistics.median(self.cold_seconds) * 1e3 if self.cold_seconds else None

    @property
    def spread_ms(self) -> float:
        """The interquartile range."""
        return interquartile_range(self.seconds) * 1e3


def interquartile_range(times: Sequence[float]) -> float:
    """How far the middle half of two or more timings lie apart."""
    first, _, third = statistics.quantiles(times, n=4)
    return third - first


def interleave(
    timers: Sequence[Timer], rounds: int = 9, seconds: float = _SECONDS, pause: float = _PAUSE
) -> list[tuple[float, ...]]:
    """Time every subject once a round, so that a disturbance hits them alike.

    Every round has another order: where a GPU is at its limit of power, whoever comes behind one
    that needs little finds higher clocks, and no subject shall always be that.

    Parameters
    ----------
    timers : Sequence[Callable[[float], float]]
        One for each subject.
    rounds : int
        Timings of each; a subject of which one call takes eight times ``seconds`` gets three.
    seconds : float
        How long one timing is to take.
    pause : float
        Seconds before each, in which threads of the subject before stop spinning.

    Returns
    -------
    list[tuple[float, ...]]
        Seconds a call of each subject, one for each of its rounds.
    """
    times: list[list[float]] = [[] for _ in timers]
    for timer in timers:
        timer(0.0)
    turns, order = [*zip(timers, times, strict=True)], random.Random(0)
    for done in range(rounds):
        order.shuffle(turns)
        for timer, found in turns:
            if done >= _SLOW_ROUNDS and found[0] > _SLOW * seconds:
                continue
            time.sleep(pause)
            found.append(timer(seconds))
    return [tuple(found) for found in times]
