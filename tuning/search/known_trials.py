"""All trials of a case: those of earlier searches, and those that this one adds."""

from __future__ import annotations

import threading

from .trial_log import Trial, TrialLog


class KnownTrials:
    """The trials of a log by identity; any thread may add to them.

    Parameters
    ----------
    log : TrialLog
        Takes every trial.
    """

    def __init__(self, log: TrialLog) -> None:
        self.trials: list[Trial] = []
        self._log = log
        self._by_identity: dict[str, Trial] = {}
        self._adding = threading.Lock()

    def read(self) -> list[Trial]:
        """Know what the log holds, and nothing else."""
        self.trials = self._log.read()
        self._by_identity = {trial.identity: trial for trial in self.trials}
        return self.trials

    def same(self, trial: Trial) -> Trial | None:
        """What came of measuring the same schedule, if that was done."""
        return self._by_identity.get(trial.identity)

    def add(self, trial: Trial) -> None:
        """Know one more, and log it.

        Raises
        ------
        NotWritableError
            If the log takes no more.
        """
        with self._adding:
            self._log.append([trial])
            self.trials.append(trial)
            self._by_identity[trial.identity] = trial
