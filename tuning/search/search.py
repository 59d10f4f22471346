"""The search: arms propose, workers build and measure, and the budget follows what wins."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import os
import queue
import shutil
import tempfile
import threading
import time
import traceback
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ...workloads import TOLERANCE, Case
from ..backends import backend_of
from ..building.build import build_library
from ..devices.opening import local_pool
from ..devices.pool import Pool
from ..errors import DiskFullError, WorkerFailedError
from ..measuring.cpu import Measurement, tvm_environment
from ..measuring.worker import Outcome, Worker
from ..spaces import SPACES, DesignSpace
from ..target import ResolvedTarget, usable_cores
from .arms import Arm, sample_arm
from .device_job import device_job
from .proposals import Proposal
from .trial_log import Trial, TrialLog

_SAMPLE_TIMEOUT = 60.0
_BASELINE_TIMEOUT = 60.0

# A builder that has come to hold more is replaced: what a compiler leaks adds up over a night.
_BUILDER_BYTES = 4 << 30
# With less than this left on the disk of built libraries, a failed build is not the candidate's.
_FREE_BYTES = 4 << 20

# An arm whose best is within this share of the overall best is worth another batch; the share
# shrinks with the square root of the batches it has had.
_OPTIMISM = 0.25

# A candidate this much slower than the best so far is timed once and no more.
_HOPELESS = 2.5

# Sampling and evolving cost nearly the same for one candidate as for eight.
_SMALLEST_BATCH = 8

# The same for as many as evolution has a choice of three for each.
_MOST_EVOLVED = 32

# Candidates of an arm at a time, where arms share batches.
_SHARE = 2

# With several devices, a batch is what one arm proposes: as many as there are devices, or such a
# part of that where it was never tried. While it is sampled, a batch and so many for each device
# are under way: few at first, so that arms learn early, and later half of all that were proposed,
# so that no device waits while the oldest batch has a slow candidate.
_PART, _PER_DEVICE = 4, (2, 6)

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
    """How a search stands; given to the listener after every trial.

    ``failures`` are of candidates, ``faults`` of the devices and the builders, ``notes`` of devices
    that were set aside.
    """

    limit: Limit
    started: float
    ended: float | None = None
    trials: int = 0
    restored: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
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


class Builder(Protocol):
    """A process that builds libraries, one at a time; a worker is one."""

    def call(self, function: Callable[..., Any], *args: Any, timeout: float) -> Outcome:
        """Call :func:`~prefilltune.tuning.building.build.build_library`."""
        ...

    def resident_bytes(self) -> int:
        """Memory that it holds."""
        ...

    def restart(self) -> None:
        """Take a new process."""
        ...


@dataclass
class _Candidate:
    """A proposal on its way; ``build`` is missing exactly if an earlier trial is known.

    ``measured`` ends with its measurement. A ``foreign`` one is not of the arm's own proposing.
    """

    arm: Arm
    proposal: Proposal
    trial: Trial | None = None
    build: Future[tuple[str, Outcome]] | None = None
    measured: Future[None] | None = None
    foreign: bool = False


#: Batches that are being measured, the oldest first, with what must end before each is done.
#: Arms learn in this order, whatever is measured first: what they propose next depends on no race.
_UnderWay = deque[tuple[list[_Candidate], "list[Future[None]]"]]


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
    builders : Sequence[Builder], optional
        Started and closed by the caller; one worker for each core when absent.
    warm : Sequence[Trial]
        Of other shapes; their traces are replayed on this one's description and measured first.

    Notes
    -----
    Batches are measured by threads of their own while the next one is sampled and built, unless
    kernels must be timed alone.
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
        builders: Sequence[Builder] | None = None,
        warm: Sequence[Trial] = (),
    ) -> None:
        self.case = case
        self.target = target
        self.trials: list[Trial] = []
        self.state = SearchState(Limit(), time.monotonic())
        self._log = log
        self.listener = listener
        self._spaces = list(spaces)
        self._stack = ExitStack()
        self._numbers = itertools.count()
        self._engine = backend_of(target.kind).engine
        self.pool = local_pool(target) if pool is None else pool
        self._owns_pool = pool is None
        self._given_builders = builders
        # Other searches have the rest.
        self._cores = min(usable_cores(), len(builders) if builders else usable_cores())
        self._warm = list(warm)
        self._alone = self._engine.alone and not self.pool.elsewhere
        devices = len(self.pool.slots)
        self._several = devices > 1
        if self._several:
            self._share = max(_SHARE, min(devices // _PART, _SMALLEST_BATCH))
            self._refined = max(_SMALLEST_BATCH, devices)
            self._evolved = max(_SMALLEST_BATCH, min(2 * devices, _MOST_EVOLVED))
            self._batch = max(self._refined, self._evolved)
            self._ahead = [self._batch + each * devices for each in _PER_DEVICE]
        else:
            self._batch = max(_SMALLEST_BATCH, (2 if self._alone else 1) * self._cores)
            self._share = self._refined = self._batch if self._alone else _SHARE
            self._evolved = self._batch
            self._ahead = [0 if self._alone else self._batch] * 2
        self._known: dict[str, Trial] = {}
        self._asked = self._pulls = 0
        self._samples: dict[Arm, Future[Outcome]] = {}
        self._evolving: set[str] = set()
        self._stopping = threading.Event()
        self._keeping = threading.Lock()
        self._noting = threading.Lock()
        self._builder_faults: Counter[str] = Counter()

    def __enter__(self) -> Search:
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="prefilltune-"))
        self._folder = Path(folder)
        if self._owns_pool:
            self._stack.enter_context(self.pool)
        self._builders: queue.Queue[Builder] = queue.Queue()
        for builder in self._given_builders or self._stack.enter_context(local_builders()):
            self._builders.put(builder)
        self._building = self._stack.enter_context(ThreadPoolExecutor(self._builders.qsize()))
        # Some wait for builds while as many as there are devices measure.
        devices = len(self.pool.slots)
        threads = 2 * devices if devices > 1 else 1
        self._measuring = self._stack.enter_context(ThreadPoolExecutor(threads))
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def run(self, limit: Limit) -> SearchState:
        """Search until ``limit`` or until every arm is exhausted.

        Raises
        ------
        KeyboardInterrupt
            Passed on; ``state``, ``trials`` and the log hold what was measured.
        """
        state = self.state = SearchState(limit, time.monotonic(), notes=self.pool.notes)
        self._asked = self._pulls = 0
        self.pool.faults.clear()
        self._builder_faults.clear()
        arms = self._arms(limit)
        # TVMScript is parsed by one thread only: this one.
        described = self._engine.baseline(self.case.spec, self.target.target)
        baseline = self._building.submit(self._build_baseline, described)
        several = len(self.pool.slots) > 1
        # Inputs and references take as long as sampling and building the first batch.
        compared_by = baseline if several else None
        self.pool.open(device_job(self.case, self.target, self._stopping, compared_by))
        under_way: _UnderWay = deque()
        timing: Future[None] | None = None
        try:
            if self._alone:
                self.pool.wait_until_ready()  # which does one thing at a time
                self._time_baseline(baseline, state)
            self._restore(arms, state)
            self._sample_ahead(arms)
            if batch := self._warm_batch(arms, state):
                under_way.append((batch, self._submit(batch, state)))
                _settle(under_way, 0)
            while batch := self._next_batch(arms, state):
                under_way.append((batch, self._submit(batch, state)))
                if timing is None and not self._alone:
                    timing = self._measuring.submit(self._time_baseline, baseline, state)
                    under_way.append(([], [timing]))
                few, many = self._ahead
                _settle(under_way, max(few, min(many, self._asked // 2)))
            _settle(under_way, 0)
        finally:
            self._stopping.set()
            wait([each for _, measured in under_way for each in measured])
            wait([each for each in self._samples.values() if not each.cancel()])
            self._samples.clear()
            self._stopping.clear()
            state.faults = self.faults()
            state.ended = time.monotonic()
        return state

    def faults(self) -> Counter[str]:
        """What devices and builders did wrong since the search began."""
        return self._builder_faults + self.pool.faults

    def _arms(self, limit: Limit) -> list[Arm]:
        """Every variant, the spaces taking turns; fewer if the trials reach no further."""
        from tvm.s_tir.meta_schedule.cost_model import XGBModel

        # Threads of its own would wait for one another, spinning, on the cores that builders have.
        cost_model = XGBModel(num_warmup_samples=32, num_tuning_cores=1, verbose_eval=0)
        case = self.case
        threads = self.target.threads if self._alone else self._cores
        per_space = [
            [
                Arm(case, self.target, space, variant, cost_model, self._evolved, threads)
                for variant in space.variants(case.spec, case.shape, self.target)
            ]
            for space in self._spaces
        ]
        turns = itertools.chain.from_iterable(itertools.zip_longest(*per_space))
        warm = {(trial.space, _variant_key(trial.variant)) for trial in self._warm}
        arms = [arm for arm in turns if arm is not None]
        arms.sort(key=lambda arm: (arm.space.name, _variant_key(arm.variant)) not in warm)
        if limit.trials is None:
            return arms
        return arms[: max(2, limit.trials // (2 * self._share))]

    def _build_baseline(self, described: Any) -> str | None:
        """Path of a library of TVM's hand-written kernel, if it can be built."""
        path, built = self._build(described, DesignSpace.build_timeout)
        return path if built.status == "ok" else None

    def _time_baseline(self, baseline: Future[str | None], state: SearchState) -> None:
        """Time TVM's hand-written kernel, for the display; the comparison measures it properly."""
        if len(self.pool.slots) > 1:
            self.pool.wait_until_ready()
            state.baseline_seconds = self.pool.baseline_seconds
            return
        state.activity = "timing TVM's hand-written kernel"
        self.listener(state)
        case, path = self.case, baseline.result()
        if path is None or self._stopping.is_set():
            return
        arguments = (path, case.spec, case.shape, case.batches(), case.seed, 0.05)
        with contextlib.suppress(WorkerFailedError), self.pool.lease() as runner:
            timed = runner.call(self._engine.time_baseline, *arguments, timeout=_BASELINE_TIMEOUT)
            if timed.status != "ok":
                raise WorkerFailedError(timed.detail)  # its process may be of no more use
            state.baseline_seconds = timed.value

    def _restore(self, arms: Sequence[Arm], state: SearchState) -> None:
        self.trials = self._log.read()
        self._known = {trial.identity: trial for trial in self.trials}
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
        for trial in self.trials:
            self._note_best(state, trial)

    def _warm_batch(self, arms: Sequence[Arm], state: SearchState) -> list[_Candidate]:
        """What was fast for near shapes, unless it does not fit or has been measured."""
        by_variant = {(arm.space.name, _variant_key(arm.variant)): arm for arm in arms}
        batch: dict[str, _Candidate] = {}
        most = min(self._batch, state.limit.trials or self._batch)
        for trial in self._warm[:most]:
            arm = by_variant.get((trial.space, _variant_key(trial.variant)))
            proposal = arm.replay(trial) if arm is not None else None
            if arm is None or proposal is None:
                continue
            identity = self._trial(arm, proposal).identity
            if identity not in self._known and identity not in batch:
                batch[identity] = self._begin(_Candidate(arm, proposal, foreign=True), state)
        return list(batch.values())

    def _next_batch(self, arms: Sequence[Arm], state: SearchState) -> list[_Candidate]:
        """Candidates of as many arms as keep the builders busy, on their way to being built.

        Of one arm where there are several devices, which wait for no other arm's. Empty when the
        search is over.
        """
        batch: list[_Candidate] = []
        room = self._batch
        if state.limit.trials is not None:
            room = min(room, state.limit.trials - self._asked)
        while room > 0 and not _out_of_time(state.limit, state):
            # Good variants are refined before the last of many is tried.
            arm = _next_arm(arms, refine=not self._alone and self._pulls % 2 == 1)
            if arm is None:
                break
            share = self._refined if arm.batches else self._share
            self._pulls += 1
            self._sample_ahead(arms)
            state.activity = f"sampling {arm.label}"
            self.listener(state)
            for proposal in self._propose(arm, min(room, share), state):
                known = self._known.get(self._trial(arm, proposal).identity)
                if known is None and room == 0:
                    break
                candidate = _Candidate(arm, proposal, known)
                if known is None:
                    self._begin(candidate, state)
                    room -= 1
                batch.append(candidate)
            if batch and self._several:
                break
        return batch

    def _sample_ahead(self, arms: Sequence[Arm]) -> None:
        """Have builders sample the arms whose turn comes next.

        Describing a variant and scheduling its first points takes as long as building them.
        """
        if self._alone:
            return
        untried = [arm for arm in arms if arm.batches == 0 and not arm.exhausted]
        for arm in untried[: max(1, self._cores // 2)]:
            if arm in self._samples or arm.space.name in self._evolving:
                continue
            if SPACES.get(arm.space.name) is arm.space:  # another process has no other spaces
                self._samples[arm] = self._building.submit(self._sample, arm)

    def _sample(self, arm: Arm) -> Outcome:
        if self._stopping.is_set():
            return Outcome("cancelled", detail="the search ended first")
        variant = dict(arm.variant)
        asked = (
            sample_arm,
            self.case,
            self.target,
            arm.space.name,
            variant,
            arm.label,
            self._share,
        )
        with self._builder() as builder:
            outcome = builder.call(*asked, timeout=_SAMPLE_TIMEOUT)
        if outcome.status == "crash":
            self._builder_faults["builder died"] += 1
        elif outcome.status == "ok" and outcome.value is None:
            self._evolving.add(arm.space.name)  # and its other variants will be too
        return outcome

    def _propose(self, arm: Arm, count: int, state: SearchState) -> list[Proposal]:
        """The arm's next candidates; a variant that cannot be scheduled is a failure of its own."""
        try:
            sampling = self._samples.get(arm) if arm.batches == 0 else None
            if sampling is not None and sampling.result().value is not None:
                arm.begin(sampling.result().value)
            return arm.propose(count)  # here, if a builder could not
        except Exception as error:  # TVM raises any Python class, by the name its C++ gives
            arm.exhausted = True
            detail = "".join(traceback.format_exception_only(error)).strip()
            outcome = {"failure": "schedule", "detail": detail, "elapsed": state.elapsed}
            failed = Trial(arm.space.name, dict(arm.variant), None, **outcome)
            state.failures[failed.failure] += 1
            if failed.identity not in self._known:
                self._keep(failed)
            return []

    def _begin(self, candidate: _Candidate, state: SearchState) -> _Candidate:
        """Build a candidate and measure it, unless kernels must be timed alone."""
        timeout = candidate.arm.space.build_timeout
        candidate.build = self._building.submit(self._build, candidate.proposal.module, timeout)
        self._asked += 1
        if not self._alone:
            candidate.measured = self._measure_later(candidate, (), state)
        return candidate

    def _submit(self, batch: Sequence[_Candidate], state: SearchState) -> list[Future[None]]:
        """Measure what has no trial yet until the search ends; what ends with that."""
        builds = [each.build for each in batch if each.build is not None]
        for candidate in batch:
            if candidate.build is not None and candidate.measured is None:
                candidate.measured = self._measure_later(candidate, builds, state)
        return [each.measured for each in batch if each.measured is not None]

    def _measure_later(
        self,
        candidate: _Candidate,
        ahead: Sequence[Future[tuple[str, Outcome]]],
        state: SearchState,
    ) -> Future[None]:
        assert candidate.build is not None
        return self._measuring.submit(self._measure_one, candidate, candidate.build, ahead, state)

    def _measure_one(
        self,
        candidate: _Candidate,
        building: Future[tuple[str, Outcome]],
        ahead: Sequence[Future[tuple[str, Outcome]]],
        state: SearchState,
    ) -> None:
        """Measure a candidate once it is built, and all those ``ahead`` are."""
        wait(ahead)
        path, build = building.result()
        if not self._stopping.is_set() and not _out_of_time(state.limit, state):
            state.activity = f"measuring {candidate.arm.label}"
            trial = self._measure(candidate, path, build, state)
            if trial is not None:
                candidate.trial = self._note(trial, state)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def _keep(self, trial: Trial) -> None:
        with self._keeping:
            self._log.append([trial])
            self.trials.append(trial)
            self._known[trial.identity] = trial

    def _note(self, trial: Trial, state: SearchState) -> Trial:
        with self._noting:
            trial = dataclasses.replace(trial, elapsed=state.elapsed)
            self._keep(trial)
            state.trials += 1
            state.faults = self.faults()
            if trial.failure:
                state.failures[trial.failure] += 1
            elif math.isinf(state.first_measured):
                state.first_measured = state.elapsed
            self._note_best(state, trial)
            self.listener(state)
        return trial

    def _trial(self, arm: Arm, proposal: Proposal, **outcome: Any) -> Trial:
        return Trial(arm.space.name, dict(arm.variant), proposal.trace, **outcome)

    def build(self, modules: Iterable[Any], timeout: float) -> list[tuple[str, Outcome]]:
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
        return list(self._building.map(self._build, modules, itertools.repeat(timeout)))

    def _build(self, module: Any, timeout: float) -> tuple[str, Outcome]:
        path = str(self._folder / f"{next(self._numbers)}.so")
        with self._builder() as builder:
            if self._stopping.is_set():
                return path, Outcome("cancelled", detail="the search ended first")
            asked = (build_library, module, self.target.target, path)
            outcome = builder.call(*asked, timeout=timeout)
            if outcome.status == "crash":  # perhaps for another reason than the candidate
                outcome = builder.call(*asked, timeout=timeout)
                if outcome.status != "crash":
                    self._builder_faults["builder died"] += 1
            if builder.resident_bytes() > _BUILDER_BYTES:
                builder.restart()
                self._builder_faults["builder leaked"] += 1
        if outcome.status == "error" and shutil.disk_usage(self._folder).free < _FREE_BYTES:
            raise DiskFullError(
                f"no space is left in {self._folder}, where candidates are built; make room, or "
                "set TMPDIR to another disk, and run the same command again"
            )
        return path, outcome

    @contextlib.contextmanager
    def _builder(self) -> Iterator[Builder]:
        """A builder that is free."""
        builder = self._builders.get()
        try:
            yield builder
        finally:
            self._builders.put(builder)

    def _measure(
        self, candidate: _Candidate, path: str, build: Outcome, state: SearchState
    ) -> Trial | None:
        """What became of a candidate; ``None`` if the search ended first."""
        outcome = self._run(path, state) if build.status == "ok" else build
        found: dict[str, Any] = {}
        if outcome.status == "cancelled":
            return None
        if build.status != "ok":
            kind = {"timeout": "build timeout"}.get(build.status, "build")
            found |= {"failure": kind, "detail": build.detail}
        elif outcome.status != "ok":
            kind = {"timeout": "run timeout", "error": "run error"}.get(outcome.status, "crash")
            found |= {"failure": kind, "detail": outcome.detail}
        else:
            measurement: Measurement = outcome.value
            tolerance = TOLERANCE[self.case.spec.dtype]
            if measurement.failure:
                found |= {"failure": measurement.failure, "detail": measurement.detail}
            elif not measurement.run_secs:
                detail = f"error {measurement.error:g} above {tolerance:g}"
                found |= {"failure": "wrong result", "detail": detail}
            else:
                found |= {"run_secs": measurement.run_secs}
        return self._trial(candidate.arm, candidate.proposal, **found)

    def _inputs(self) -> tuple[Any, ...]:
        case = self.case
        return case.spec, case.shape, case.batches(), case.check_lens(), case.seed

    def _run(self, path: str, state: SearchState) -> Outcome:
        """Check and time a library on a device of the pool."""
        check_and_time, timeout = self._engine.check_and_time, self._engine.timeout
        slow = _HOPELESS * state.best_seconds
        return self.pool.measure(check_and_time, path, *self._inputs(), slow, timeout=timeout)

    def _note_best(self, state: SearchState, trial: Trial) -> None:
        if trial.seconds < state.best_seconds:
            state.best_seconds = trial.seconds
            state.best_label = trial.space


@contextlib.contextmanager
def local_builders() -> Iterator[list[Worker]]:
    """One builder for each core, for one search after the other."""
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(tvm_environment(1))) for _ in range(usable_cores())]
        for worker in workers:
            worker.start()
        yield workers


def _settle(under_way: _UnderWay, left: int) -> None:
    """Wait for batches, the oldest first, until at most ``left`` measurements are under way."""
    while under_way and (left == 0 or sum(len(measured) for _, measured in under_way) > left):
        batch, measured = under_way[0]
        for each in measured:
            each.result()
        under_way.popleft()
        _learn(batch)


def _learn(batch: Sequence[_Candidate]) -> None:
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


def _next_arm(arms: Sequence[Arm], *, refine: bool = False) -> Arm | None:
    """The first untried arm, or else the one with the best prospect.

    An arm's prospect is its best time, less a bonus for having been tried little.

    Parameters
    ----------
    refine : bool
        Whether an arm with a success goes before the untried.
    """
    waiting = [arm for arm in arms if not arm.exhausted]
    untried = [arm for arm in waiting if arm.batches == 0]
    tried = [arm for arm in waiting if arm.batches > 0]
    if untried and not (refine and any(math.isfinite(arm.best) for arm in tried)):
        return untried[0]
    return min(
        tried, key=lambda arm: arm.best * (1 - _OPTIMISM / math.sqrt(arm.batches)), default=None
    )


def _out_of_time(limit: Limit, state: SearchState) -> bool:
    return limit.seconds is not None and state.elapsed >= limit.seconds


def _variant_key(variant: Any) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(variant.items()))
