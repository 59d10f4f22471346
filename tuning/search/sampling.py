"""Sampling ahead: builders find the first candidates of the arms whose turn comes next."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, wait

from ..measuring.worker import Outcome
from ..spaces import SPACES
from .arms import Arm, sample_arm
from .builders import Builders

_TIMEOUT = 60.0


class SamplesAhead:
    """The samples of arms that have had no turn.

    Describing a variant and scheduling its first points takes as long as building them.

    Parameters
    ----------
    builders : Builders
        Take the samples, between builds.
    arms : int
        How many of the untried are sampled at a time; none if 0.
    count : int
        Candidates a sample.
    """

    def __init__(self, builders: Builders, arms: int, count: int) -> None:
        self._builders = builders
        self._arms = arms
        self._count = count
        self._asked: dict[Arm, Future[Outcome]] = {}
        self._evolved: set[str] = set()

    def ask(self, arms: Sequence[Arm]) -> None:
        """Have those sampled that come next, unless they are being sampled."""
        untried = [arm for arm in arms if arm.turns == 0 and not arm.exhausted]
        for arm in untried[: self._arms]:
            if arm in self._asked or arm.space.name in self._evolved:
                continue
            if SPACES.get(arm.space.name) is arm.space:  # another process has no other spaces
                self._asked[arm] = self._builders.submit(self._sample, arm)

    def hand_over(self, arm: Arm) -> None:
        """Wait for the sample of an arm and have it begin with that; without one it samples itself.

        Parameters
        ----------
        arm : Arm
            Has had no turn.
        """
        sampling = self._asked.get(arm)
        if sampling is not None and sampling.result().value is not None:
            arm.begin(sampling.result().value)

    def drop(self) -> None:
        """Forget all samples; those that were begun are waited for."""
        wait([each for each in self._asked.values() if not each.cancel()])
        self._asked.clear()

    def _sample(self, arm: Arm) -> Outcome:
        asked = (arm.case, arm.target, arm.space.name, dict(arm.variant), self._count)
        outcome = self._builders.call(sample_arm, *asked, timeout=_TIMEOUT)
        if outcome.status == "ok" and outcome.value is None:
            self._evolved.add(arm.space.name)  # and its other variants will be too
        return outcome
