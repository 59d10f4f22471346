"""How a search stands, and when it ends."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .trial_log import Trial

# Whoever has found nothing when time is over goes on, until so many candidates have failed.
_MOST_FAILURES = 64


@dataclass(frozen=True)
class Limit:
    """When a search ends, whichever comes first; at least one must be given.

    Time that ends before a candidate has been measured is exceeded by what that takes.

    Parameters
    ----------
    trials : int, optional
        Candidates measured by this call.
    seconds : float, optional
        Wall-clock time of this call.
    """

    trials: int | None = None
    seconds: float | None = None


@dataclass
class SearchState:
    """How a search stands; given to the listener after every trial.

    Parameters
    ----------
    limit : Limit
        When it ends.
    started, ended : float
        By the monotonic clock; no end while it runs.
    trials, restored : int
        Candidates that it measured, and those that the log held before.
    beyond : int
        Variants that the limit's trials do not reach.
    failures, faults : Counter[str]
        By kind: of candidates, and of the devices and the builders.
    notes : list[str]
        On devices that were set aside.
    best_seconds, best_label : float, str
        Of the fastest candidate, also of earlier searches, and its design space.
    baseline_seconds : float
        Of TVM's hand-written kernel; nan until it has been timed.
    has_baseline : bool
        Whether TVM has one for the case.
    activity : str
        What is being done, for people.
    first_measured : float
        Seconds from the start to the first success; infinite before.
    """

    limit: Limit
    started: float
    ended: float | None = None
    trials: int = 0
    restored: int = 0
    beyond: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    best_seconds: float = math.inf
    best_label: str = ""
    baseline_seconds: float = math.nan
    has_baseline: bool = True
    activity: str = ""
    first_measured: float = math.inf

    @property
    def elapsed(self) -> float:
        """Seconds since the start, or of the whole search once it has ended."""
        return (time.monotonic() if self.ended is None else self.ended) - self.started

    @property
    def is_out_of_time(self) -> bool:
        """Whether the limit's seconds are over, and nothing is owed."""
        return self._is_late and not self._owes_a_candidate

    @property
    def is_overdue(self) -> bool:
        """Whether the limit's seconds are over, and the first candidate is owed."""
        return self._is_late and self._owes_a_candidate

    @property
    def shortfall(self) -> str:
        """What the limit's seconds did not suffice for, and how long it took; empty if nothing."""
        seconds = self.limit.seconds
        if seconds is None:
            return ""
        ended = f"the budget of {seconds:.3g} s ended before"
        if seconds < self.first_measured < math.inf:
            return (
                f"{ended} the first candidate was measured, which took {self.first_measured:.1f} s"
            )
        if not self.trials and self.elapsed > seconds:
            return f"{ended} another candidate was measured: to get ready took {self.elapsed:.1f} s"
        return ""

    @property
    def _is_late(self) -> bool:
        return self.limit.seconds is not None and self.elapsed >= self.limit.seconds

    @property
    def _owes_a_candidate(self) -> bool:
        return math.isinf(self.best_seconds) and self.failures.total() < _MOST_FAILURES

    def restore(self, trials: Sequence[Trial]) -> None:
        """Begin with the trials of earlier searches."""
        self.restored = len(trials)
        for trial in trials:
            self._note_best(trial)

    def count(self, trial: Trial) -> None:
        """One more candidate was measured."""
        self.trials += 1
        if trial.failure:
            self.failures[trial.failure] += 1
        else:
            self.first_measured = min(self.first_measured, trial.elapsed)
        self._note_best(trial)

    def _note_best(self, trial: Trial) -> None:
        if trial.seconds < self.best_seconds:
            self.best_seconds, self.best_label = trial.seconds, trial.space


#: Is told how a search stands, by several of its threads.
Listener = Callable[[SearchState], None]
