"""Whose turn it is: the batches of a search, candidate by candidate."""

from __future__ import annotations

import threading
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from .arms import Arm
from .batching import Batching
from .candidate import Candidate
from .choice import next_arm
from .known_trials import KnownTrials
from .sampling import SamplesAhead
from .state import SearchState
from .strategies import Proposal
from .trial_log import ArmKey, Trial

# Built at once for the first candidate that a search owes when its time is over: one may fail.
_OWED = 2

# Of an earlier search, as many trials of each arm are replayed: more would delay the first batch.
_RESTORED_PER_ARM = 8


class Turns:
    """The turns of arms in one search.

    Parameters
    ----------
    arms : Sequence[Arm]
        In the order of their first turns.
    batching : Batching
        How many candidates each turn and each batch have.
    samples : SamplesAhead
        What arms may begin with.
    known : KnownTrials
        What has been measured already.
    state : SearchState
        Of the search, with its limit.
    say : Callable[[str], None]
        Shows what is being done.
    stopping : threading.Event
        While it is set, nothing more is proposed.
    """

    def __init__(
        self,
        arms: Sequence[Arm],
        batching: Batching,
        samples: SamplesAhead,
        known: KnownTrials,
        state: SearchState,
        say: Callable[[str], None],
        stopping: threading.Event,
    ) -> None:
        self.proposed = 0
        self._turns = 0
        self._arms = arms
        self._batching = batching
        self._samples = samples
        self._known = known
        self._state = state
        self._say = say
        self._stopping = stopping

    def restore(self) -> None:
        """Have arms take over what is known of them, and let builders sample the untried."""
        measured: defaultdict[ArmKey, list[Trial]] = defaultdict(list)
        for trial in self._known.trials:
            if trial.run_secs:
                measured[trial.arm].append(trial)
        for arm in self._arms:
            if arm.key in measured and not self._stopping.is_set():
                self._say(f"replaying earlier trials of {arm.label}")
                fastest = sorted(measured[arm.key], key=lambda each: each.seconds)
                arm.restore(fastest[:_RESTORED_PER_ARM])
        self._samples.ask(self._arms)

    def warm_batch(self, trials: Sequence[Trial]) -> Iterator[Candidate]:
        """What was fast for near workloads, unless it does not fit or has been measured."""
        by_key = {arm.key: arm for arm in self._arms}
        found: set[str] = set()
        for trial in trials[: self._room()]:
            if self._is_over or (self._state.is_overdue and len(found) == _OWED):
                return
            arm = by_key.get(trial.arm)
            proposal = arm.replay(trial) if arm is not None else None
            if arm is None or proposal is None:
                continue
            as_trial = arm.trial(proposal)
            if self._known.same(as_trial) is None and as_trial.identity not in found:
                found.add(as_trial.identity)
                self.proposed += 1
                yield Candidate(arm, proposal, foreign=True)

    def next_batch(self) -> Iterator[Candidate]:
        """The candidates of the next turns; none when the search is over.

        Those that are known already come with their trial, and take up no room in the batch.
        """
        room, batch = self._room(), self._batching
        owed = room - _OWED
        while room > 0 and not self._is_over:
            arm = next_arm(self._arms, self._turns)
            if arm is None:
                return
            count = batch.later_turn if arm.turns else batch.first_turn
            self._turns += 1
            self._samples.ask(self._arms)
            self._say(f"sampling {arm.label}")
            proposals = self._propose(arm, min(room, count))
            for proposal in proposals:
                known = self._known.same(arm.trial(proposal))
                if known is None and room == 0:
                    break  # evolution proposes more than it is asked for
                if self._state.is_overdue and room <= owed:
                    return
                room -= known is None
                self.proposed += known is None
                yield Candidate(arm, proposal, known)
            if proposals and (batch.one_arm or self._state.is_overdue):
                return

    @property
    def _is_over(self) -> bool:
        return self._state.is_out_of_time or self._stopping.is_set()

    def _room(self) -> int:
        """Candidates that one more batch may build."""
        trials = self._state.limit.trials
        most = self._batching.batch
        return most if trials is None else min(most, trials - self.proposed)

    def _propose(self, arm: Arm, count: int) -> list[Proposal]:
        """The arm's next candidates; a variant that cannot be scheduled is a failure of its own."""
        if arm.turns == 0:
            self._samples.hand_over(arm)  # outside: a builder that cannot start is no variant's
        if self._stopping.is_set():
            return []
        try:
            return arm.propose(count)
        except Exception as error:  # TVM raises any Python class, by the name its C++ gives
            arm.exhausted = True
            failed = Trial(
                arm.space.name,
                dict(arm.variant),
                None,
                failure="schedule",
                detail="".join(traceback.format_exception_only(error)).strip(),
                elapsed=self._state.elapsed,
            )
            self._state.failures[failed.failure] += 1
            if self._known.same(failed) is None:
                self._known.add(failed)
            return []
