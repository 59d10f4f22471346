"""What a strategy is: a source of candidates of one variant, which may learn from their times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..trial_log import Trial


@dataclass(frozen=True)
class Proposal:
    """A candidate.

    Parameters
    ----------
    module : tvm.IRModule or PickledModule
        Scheduled.
    trace : object
        Of the schedule, in MetaSchedule's JSON.
    candidate : meta_schedule.MeasureCandidate, optional
        What evolution learns from.
    """

    module: Any
    trace: Any
    candidate: Any = None


class Strategy(Protocol):
    """A source of candidates that may learn from what became of them."""

    def propose(self, count: int) -> list[Proposal]:
        """The next candidates, about ``count``; empty once there are no more."""
        ...

    def restore(self, trials: Sequence[Trial]) -> None:
        """Take over successful trials of an earlier search."""
        ...

    def learn(self, proposals: Sequence[Proposal], run_secs: Sequence[tuple[float, ...]]) -> None:
        """Hear how candidates did; no times for a failure."""
        ...
