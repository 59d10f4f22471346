"""The search: arms propose, workers build and measure, and the budget follows what wins."""

from __future__ import annotations

import itertools
import math
import os
import queue
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from ..workloads import TOLERANCE, ragged_cpu_baseline
from .arm import Arm, Case, Proposal
from .build import build_library
from .measure import Measurement, check_and_time, time_ragged_baseline, tvm_environment
from .spaces import SPACES, DesignSpace
from .trial_log import Trial, TrialLog
from .worker import Outcome, Worker

_BUILD_TIMEOUT = 60.0
_RUN_TIMEOUT = 60.0

# An arm whose best is within this share of the overall best is worth another batch; the share
# shrinks with the square root of the batches it has had.
_OPTIMISM = 0.25

# A candidate this much slower than the best so far is timed once and no more.
_HOPELESS = 2.5

# Sampling and evolving cost nearly the same for one candidate as for eight.
_SMALLEST_BATCH = 8

# Of an earlier search, as many trials of each arm are replayed: more would delay the first batch.
_RESTORED_PER_ARM = 8


@dataclass(frozen=True)
class Limit:
    """When a search ends, whichever comes first; at least one must be given.

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
    """How a search stands; given to the listener after every batch."""

    limit: Limit
    started: float
    ended: float | None = None
    trials: int = 0
    restored: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    best_seconds: float = math.inf
    best_label: str = ""
    baseline_seconds: float = math.nan
    activity: str = ""
    first_measured: float = math.inf

    @property
    def elapsed(self) -> float:
        """Seconds since the start, or of the whole search once it has ended."""
        return (time.monotonic() if self.ended is None else self.ended) - self.started


Listener = Callable[[SearchState], None]


class Search:
    """A search over the arms of one case; a context manager that owns its worker processes.

    Parameters
    ----------
    case : Case
        What is tuned.
    spaces : Sequence[DesignSpace]
        Share the budget.
    log : TrialLog
        Takes every trial, and gives those of earlier searches.
    listener : Callable[[SearchState], None]
        Told after every batch.
    """

    def __init__(
        self, case: Case, spaces: Sequence[DesignSpace], log: TrialLog, listener: Listener
    ) -> None:
        self.case = case
        self.trials: list[Trial] = []
        self.state = SearchState(Limit(), time.monotonic())
        self._log = log
        self.listener = listener
        self._spaces = list(spaces)
        self._stack = ExitStack()
        self._numbers = itertools.count()
        self._batch = max(_SMALLEST_BATCH, 2 * _builders())

    def __enter__(self) -> Search:
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="prefilltune-"))
        self._folder = Path(folder)
        self.runner = self._stack.enter_context(Worker(tvm_environment(self.case.target.threads)))
        self._builders: queue.Queue[Worker] = queue.Queue()
        for _ in range(_builders()):
            worker = self._stack.enter_context(Worker(tvm_environment(1)))
            worker.start()
            self._builders.put(worker)
        self.runner.start()
        self._pool = self._stack.enter_context(ThreadPoolExecutor(self._builders.qsize()))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def run(self, limit: Limit) -> SearchState:
        """Search until ``limit`` or until every arm is exhausted.

        Raises
        ------
        KeyboardInterrupt
            Passed on; ``state``, ``trials`` and the log hold what was measured.
        """
        state = self.state = SearchState(limit, time.monotonic())
        arms = self._arms(limit)
        self._time_baseline(state)
        self._restore(arms, state)
        try:
            while not _reached(limit, state):
                arm = _next_arm(arms)
                if arm is None:
                    break
                self._step(arm, state)
        finally:
            state.ended = time.monotonic()
        return state

    def _arms(self, limit: Limit) -> list[Arm]:
        """Every variant, the spaces taking turns; fewer if the trials reach no further."""
        from tvm.s_tir.meta_schedule.cost_model import XGBModel

        cost_model = XGBModel(num_warmup_samples=32, num_tuning_cores=_builders(), verbose_eval=0)
        case = self.case
        per_space = [
            [
                Arm(case, space, variant, cost_model, self._batch)
                for variant in space.variants(case.spec, case.shape, case.target)
            ]
            for space in self._spaces
        ]
        turns = itertools.chain.from_iterable(itertools.zip_longest(*per_space))
        arms = [arm for arm in turns if arm is not None]
        if limit.trials is None:
            return arms
        return arms[: max(2, limit.trials // (2 * self._batch))]

    def _time_baseline(self, state: SearchState) -> None:
        """Time TVM's hand-written kernel, for the display; the comparison measures it properly."""
        state.activity = "timing TVM's hand-written kernel"
        self.listener(state)
        case = self.case
        ((path, built),) = self.build([ragged_cpu_baseline(case.spec)])
        if built.status == "ok":
            arguments = (path, case.spec, case.shape, case.batches(), case.seed, 0.05)
            timed = self.runner.call(time_ragged_baseline, *arguments, timeout=_RUN_TIMEOUT)
            if timed.status == "ok":
                state.baseline_seconds = timed.value

    def _restore(self, arms: Sequence[Arm], state: SearchState) -> None:
        self.trials = self._log.read()
        state.restored = len(self.trials)
        measured = defaultdict(list)
        for trial in self.trials:
            if trial.run_secs:
                measured[trial.space, _variant_key(trial.variant)].append(trial)
        for arm in arms:
            earlier = measured[arm.space.name, _variant_key(arm.variant)]
            if earlier:
                state.activity = f"replaying earlier trials of {arm.label}"
                self.listener(state)
                arm.restore(sorted(earlier, key=lambda each: each.seconds)[:_RESTORED_PER_ARM])
        self._note_best(state, self.trials)

    def _step(self, arm: Arm, state: SearchState) -> None:
        """One batch of one arm."""
        state.activity = f"sampling {arm.label}"
        self.listener(state)
        known = {trial.identity: trial for trial in self.trials}
        proposals = arm.propose()
        trials = [known.get(self._trial(arm, each).identity) for each in proposals]
        fresh = [index for index, trial in enumerate(trials) if trial is None]
        if state.limit.trials is not None:
            allowed = state.limit.trials - state.trials
            fresh, left_out = fresh[:allowed], set(fresh[allowed:])
            kept = [index for index in range(len(proposals)) if index not in left_out]
        else:
            kept = list(range(len(proposals)))
        state.activity = f"building {arm.label}"
        self.listener(state)
        builds = self.build(proposals[index].module for index in fresh)
        state.activity = f"measuring {arm.label}"
        self.listener(state)
        measured = []
        for index, (path, build) in zip(fresh, builds, strict=True):
            trial = self._measure(arm, proposals[index], path, build, state)
            trials[index] = trial
            measured.append(trial)
            state.trials += 1
            if trial.failure:
                state.failures[trial.failure] += 1
            elif math.isinf(state.first_measured):
                state.first_measured = state.elapsed
            self._note_best(state, [trial])
        self._log.append(measured)
        self.trials += measured
        done = [(proposals[index], trial) for index in kept if (trial := trials[index]) is not None]
        if proposals:
            arm.learn([each for each, _ in done], [trial.run_secs for _, trial in done])
        self.listener(state)

    def _trial(self, arm: Arm, proposal: Proposal, **outcome: Any) -> Trial:
        return Trial(arm.space.name, dict(arm.variant), proposal.trace, **outcome)

    def build(self, modules: Iterable[Any]) -> list[tuple[str, Outcome]]:
        """Build scheduled modules side by side.

        Returns
        -------
        list[tuple[str, Outcome]]
            Path of the library and how its build ended; the libraries go when the search is closed.
        """
        return list(self._pool.map(self._build, modules))

    def _build(self, module: Any) -> tuple[str, Outcome]:
        path = str(self._folder / f"{next(self._numbers)}.so")
        worker = self._builders.get()
        try:
            target = self.case.target.target
            return path, worker.call(build_library, module, target, path, timeout=_BUILD_TIMEOUT)
        finally:
            self._builders.put(worker)

    def _measure(
        self, arm: Arm, proposal: Proposal, path: str, build: Outcome, state: SearchState
    ) -> Trial:
        if build.status != "ok":
            kind = {"timeout": "build timeout"}.get(build.status, "build")
            return self._trial(arm, proposal, failure=kind, detail=build.detail)
        case = self.case
        outcome = self.runner.call(
            check_and_time,
            path,
            case.spec,
            case.shape,
            case.batches(),
            case.check_lens(),
            case.seed,
            _HOPELESS * state.best_seconds,
            timeout=_RUN_TIMEOUT,
        )
        os.unlink(path)
        if outcome.status != "ok":
            kind = {"timeout": "run timeout", "error": "run error"}.get(outcome.status, "crash")
            return self._trial(arm, proposal, failure=kind, detail=outcome.detail)
        measurement: Measurement = outcome.value
        if not measurement.run_secs:
            detail = f"error {measurement.error:g} above {TOLERANCE[case.spec.dtype]:g}"
            return self._trial(arm, proposal, failure="wrong result", detail=detail)
        return self._trial(arm, proposal, run_secs=measurement.run_secs)

    def _note_best(self, state: SearchState, trials: Sequence[Trial]) -> None:
        for trial in trials:
            if trial.seconds < state.best_seconds:
                state.best_seconds = trial.seconds
                state.best_label = trial.space


def _next_arm(arms: Sequence[Arm]) -> Arm | None:
    """The arm with the best prospect: its best time, less a bonus for having been tried little."""
    waiting = [arm for arm in arms if not arm.exhausted]
    untried = [arm for arm in waiting if arm.batches == 0]
    if untried:
        return untried[0]
    return min(
        waiting, key=lambda arm: arm.best * (1 - _OPTIMISM / math.sqrt(arm.batches)), default=None
    )


def _reached(limit: Limit, state: SearchState) -> bool:
    return (limit.trials is not None and state.trials >= limit.trials) or (
        limit.seconds is not None and state.elapsed >= limit.seconds
    )


def _builders() -> int:
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)


def _variant_key(variant: Any) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(variant.items()))


def usable_spaces(kind: str) -> list[DesignSpace]:
    """The design spaces for a target kind."""
    return [space for space in SPACES.values() if kind in space.kinds]
