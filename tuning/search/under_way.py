"""The batches that are being measured, and in which order arms learn from them."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from concurrent.futures import Future, wait

from .arms import Arm
from .candidate import Candidate
from .strategies import Proposal
from .trial_log import Trial


class UnderWay:
    """Batches that are being measured, the oldest first.

    Arms learn in this order, whatever is measured first: what they propose next depends on no race.
    """

    def __init__(self) -> None:
        self._entries: deque[list[Candidate] | Future[None]] = deque()

    def new_batch(self) -> list[Candidate]:
        """A batch, still empty; it counts from its first candidate on that is to be measured."""
        batch: list[Candidate] = []
        self._entries.append(batch)
        return batch

    def add(self, measurement: Future[None]) -> None:
        """Take a measurement that is of no candidate, nothing to be learnt from."""
        self._entries.append(measurement)

    def settle(self, left: int = 0) -> None:
        """Wait for batches and have arms learn, until at most ``left`` measurements are under way.

        A batch is waited for as a whole, and each of its measurements counts until all have ended.
        """
        while self._entries and (left == 0 or sum(map(len, map(_futures, self._entries))) > left):
            oldest = self._entries[0]
            for each in _futures(oldest):
                each.result()
            self._entries.popleft()
            if not isinstance(oldest, Future):
                _learn(oldest)

    def wait(self) -> None:
        """Wait for all builds and measurements, however they end; arms learn nothing."""
        wait([each for entry in self._entries for each in _futures(entry)])
        batches = [entry for entry in self._entries if not isinstance(entry, Future)]
        wait([each.build for batch in batches for each in batch if each.build is not None])


def _futures(entry: Sequence[Candidate] | Future[None]) -> list[Future[None]]:
    """What must end before an entry is done with."""
    if isinstance(entry, Future):
        return [entry]
    return [each.measured for each in entry if each.measured is not None]


def _learn(batch: Sequence[Candidate]) -> None:
    """Tell the arms how their candidates did."""
    per_arm: dict[Arm, list[tuple[Proposal, Trial]]] = defaultdict(list)
    for candidate in batch:
        if candidate.trial is None:
            continue
        if candidate.foreign:
            candidate.arm.restore([candidate.trial] if candidate.trial.run_secs else [])
        else:
            per_arm[candidate.arm].append((candidate.proposal, candidate.trial))
    for arm, done in per_arm.items():
        arm.learn([proposal for proposal, _ in done], [trial.run_secs for _, trial in done])
