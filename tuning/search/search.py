"""The search: arms propose, builders build, devices measure, and the budget follows what wins."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from typing import Any

from ...workloads import TOLERANCE, Case
from ..backends import backend_of
from ..devices.opening import local_pool
from ..devices.pool import Pool
from ..ending import Wish
from ..errors import SearchEndingError
from ..measuring.worker import Outcome
from ..spaces import DesignSpace
from ..target import ResolvedTarget
from .arms import Arm, arms_of
from .baseline import Baseline
from .batching import Batching, beside_devices, beside_one_device, on_this_cpu
from .builders import BuilderProcess, Builders, Built
from .candidate import Candidate, verdict
from .device_job import device_job
from .known_trials import KnownTrials
from .sampling import SamplesAhead
from .state import Limit, Listener, SearchState
from .trial_log import Trial, TrialLog
from .turns import Turns
from .under_way import UnderWay

# A candidate this much slower than the best so far is timed once and no more.
_HOPELESS = 2.5


class Search:
    """A search over the arms of one case; a context manager that owns its worker processes.

    Parameters
    ----------
    case : Case
        What is tuned.
    target : ResolvedTarget
        What for.
    spaces : Sequence[DesignSpace]
        Share the budget.
    log : TrialLog
        Takes every trial, and gives those of earlier searches.
    listener : Callable[[SearchState], None]
        Told after every trial, by another thread than the caller's.
    pool : Pool, optional
        Of devices; the machine at hand when absent. The caller closes it.
    builders : Sequence[BuilderProcess], optional
        Started and closed by the caller; one worker for each core when absent.
    warm : Sequence[Trial]
        Of other shapes; their traces are replayed on this one's description and measured first.
    wish : Wish, optional
        That the search ends early.

    Notes
    -----
    The caller's thread samples, and has arms learn. Meanwhile builders build, and threads wait for
    builds and devices. How far one is ahead of the other is in :mod:`.batching`, whose turn it is
    in :mod:`.turns`.
    """

    def __init__(
        self,
        case: Case,
        target: ResolvedTarget,
        spaces: Sequence[DesignSpace],
        log: TrialLog,
        listener: Listener,
        *,
        pool: Pool | None = None,
        builders: Sequence[BuilderProcess] | None = None,
        warm: Sequence[Trial] = (),
        wish: Wish | None = None,
    ) -> None:
        self.case = case
        self.target = target
        self.listener = listener
        self.state = SearchState(Limit(), time.monotonic())
        self.pool = local_pool(target) if pool is None else pool
        self._owns_pool = pool is None
        self._spaces = spaces
        self._warm = warm
        self._engine = backend_of(target.kind).engine
        self._known = KnownTrials(log)
        self._wish = wish or Wish()
        self._stopping = threading.Event()
        self._builders = Builders(target, self._stopping, builders)
        self._batching = self._mode()
        self._noting = threading.Lock()
        self._stack = ExitStack()

    def __enter__(self) -> Search:
        if self._owns_pool:
            self._stack.enter_context(self.pool)
        self._stack.enter_context(self._builders)
        threads = ThreadPoolExecutor(self._batching.measuring_threads)
        self._measuring = self._stack.enter_context(threads)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    @property
    def trials(self) -> list[Trial]:
        """All trials of the case, those of earlier searches first."""
        return self._known.trials

    def run(self, limit: Limit) -> SearchState:
        """Search until ``limit``, until every arm is exhausted, or until it is wished to end.

        ``state``, ``trials`` and the log hold what was measured, also where something is raised.
        """
        with self._wish.told(self._stopping.set):
            return self._run_until(limit)

    def _run_until(self, limit: Limit) -> SearchState:
        state = self.state = SearchState(limit, time.monotonic(), notes=self.pool.notes)
        self.pool.faults.clear()
        self._builders.faults.clear()
        bounds, under_way = self._batching, UnderWay()
        samples = SamplesAhead(self._builders, bounds.sampled_ahead, bounds.first_turn)
        known = self._known.read()
        arms = self._arms(known)
        turns = Turns(arms, bounds, samples, self._known, state, self._say, self._stopping)
        baseline = Baseline(self.case, self.target, self._builders, self.pool)
        state.has_baseline = baseline.exists
        # Inputs and references take as long as sampling and building the first batch.
        self.pool.open(device_job(self.case, self.target, self._stopping, baseline.calibration))
        try:
            if bounds.alone:
                self.pool.wait_until_ready()  # before anything else keeps the cores busy
                self._time_baseline(baseline)
            state.restore(known)
            turns.restore()
            self._begin(turns.warm_batch(self._warm), under_way)
            under_way.settle()
            timing = bounds.alone
            while self._begin(turns.next_batch(), under_way):
                if not timing:
                    under_way.add(self._measuring.submit(self._time_baseline, baseline))
                    timing = True
                under_way.settle(bounds.left(turns.proposed))
            under_way.settle()
        finally:
            self._stopping.set()
            under_way.wait()
            samples.drop()
            self._stopping.clear()
            state.faults = self.faults()
            state.ended = time.monotonic()
        return state

    def faults(self) -> Counter[str]:
        """What devices and builders did wrong since the search began."""
        return self._builders.faults + self.pool.faults

    def build(self, modules: Iterable[Any], timeout: float) -> list[Built]:
        """Build scheduled modules side by side.

        Parameters
        ----------
        timeout : float
            Seconds that each may take.

        Returns
        -------
        list[tuple[str, Outcome]]
            Path of the library and how its build ended; the libraries go when the search is closed.
        """
        build = self._builders.build
        building = [self._builders.submit(build, module, timeout) for module in modules]
        return [each.result() for each in building]

    def _mode(self) -> Batching:
        cores, devices = self._builders.cores, len(self.pool.slots)
        if self._engine.alone and not self.pool.elsewhere:
            return on_this_cpu(cores, self.target.threads)
        return beside_one_device(cores) if devices == 1 else beside_devices(cores, devices)

    def _arms(self, earlier: Sequence[Trial]) -> list[Arm]:
        """An arm for every variant; fewer if the trials reach no further than some untried ones.

        Arms that propose nothing, but replay what is known of other workloads, come first: also
        those that the trials do not reach. Then come the best of earlier searches, what none of
        these tried, and the others, which have had their turn.
        """
        bounds, trials = self._batching, self.state.limit.trials
        each = (bounds.generation, bounds.sampling_threads)
        arms = arms_of(self.case, self.target, self._spaces, *each, self._warm)
        tried = {trial.arm for trial in earlier}
        best = min(earlier, key=lambda trial: trial.seconds).arm if earlier else None
        replaying = [arm for arm in arms if arm.exhausted]
        others = [arm for arm in arms if not arm.exhausted]
        untried = [arm for arm in others if arm.key not in tried]
        reached = len(untried) if trials is None else bounds.most_arms(trials)
        beyond = untried[reached:]
        self.state.beyond = len(beyond)
        for arm in beyond:
            arm.exhausted = True
        known = {trial.arm for trial in self._warm}
        left = [arm for arm in beyond if arm.key in known]
        again = [arm for arm in others if arm.key in tried]
        again.sort(key=lambda arm: arm.key != best)
        return [*replaying, *left, *again[:1], *untried[:reached], *again[1:]]

    def _say(self, activity: str) -> None:
        self.state.activity = activity
        self.listener(self.state)

    def _time_baseline(self, baseline: Baseline) -> None:
        if baseline.exists and baseline.calibration is None:
            self._say("timing TVM's hand-written kernel")
        with contextlib.suppress(SearchEndingError):
            self.state.baseline_seconds = baseline.time()

    def _begin(self, candidates: Iterable[Candidate], under_way: UnderWay) -> bool:
        """Have a batch built, and measured where no trial is known; whether it has candidates."""
        batch = under_way.new_batch()
        for candidate in candidates:
            batch.append(candidate)
            if candidate.trial is None:
                asked = (candidate.proposal.module, candidate.arm.space.build_timeout)
                candidate.build = self._builders.submit(self._builders.build, *asked)
                if not self._batching.alone:
                    candidate.measured = self._measuring.submit(self._measure, candidate)
        if self._batching.alone:
            wait([each.build for each in batch if each.build is not None])
            for candidate in batch:
                if candidate.build is not None:
                    candidate.measured = self._measuring.submit(self._measure, candidate)
        return bool(batch)

    def _measure(self, candidate: Candidate) -> None:
        """Measure a candidate once it is built, if the search goes on."""
        assert candidate.build is not None
        path, build = candidate.build.result()
        if not self._stopping.is_set() and not self.state.is_out_of_time:
            self.state.activity = f"measuring {candidate.arm.label}"
            run = self._run(path) if build.status == "ok" else build
            # Where the search is ending, processes may be killed: that is no candidate's fault.
            if run.status != "cancelled" and (run.status == "ok" or not self._stopping.is_set()):
                found = verdict(build, run, TOLERANCE[self.case.spec.dtype])
                candidate.trial = self._note(candidate.arm.trial(candidate.proposal, **found))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def _run(self, path: str) -> Outcome:
        """Check and time a library on a device of the pool."""
        case, engine = self.case, self._engine
        inputs = (case.spec, case.shape, case.batches(), case.check_lens(), case.seed)
        slow = _HOPELESS * self.state.best_seconds
        return self.pool.measure(engine.check_and_time, path, *inputs, slow, timeout=engine.timeout)

    def _note(self, trial: Trial) -> Trial:
        """Log a trial, as of now, and tell the listener."""
        with self._noting:
            trial = dataclasses.replace(trial, elapsed=self.state.elapsed)
            self._known.add(trial)
            self.state.faults = self.faults()
            self.state.count(trial)
            self.listener(self.state)
        return trial
