"""Tuning one case from end to end: search, verify the best on fresh inputs, keep them."""

from __future__ import annotations

import contextlib
import datetime
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...database import Entry, Provenance, RecordStore, TargetKey, entry_from
from ...workloads import TOLERANCE, Case
from ..backends import backend_of
from ..devices.machine import Machine, machine_here
from ..devices.pool import Pool
from ..devices.slot import Runner
from ..errors import NothingFoundError, WorkerFailedError
from ..measuring.timing import interleave, interquartile_range
from ..measuring.worker import Outcome
from ..spaces import SPACES
from ..target import ResolvedTarget
from .builders import BuilderProcess
from .search import Search
from .state import Limit, Listener, SearchState
from .trial_log import Trial, TrialLog
from .verification import batches_to_verify, largest_error
from .warm_start import nearest_trials

_SPARE_FINALISTS = 2
_CHECK_TIMEOUT = 300.0
_TRIES = 2


@dataclass(frozen=True)
class TuneResult:
    """What a tuning run left.

    Parameters
    ----------
    state : SearchState
        Of the search at its end.
    kept : tuple[Entry, ...]
        The records added to the database, the fastest first.
    interrupted : bool
        Whether Ctrl-C ended the search before its budget did.
    log : Path
        Of every trial; the next run goes on from it.
    """

    state: SearchState
    kept: tuple[Entry, ...]
    interrupted: bool
    log: Path


def tune_case(
    case: Case,
    target: ResolvedTarget,
    spaces: Sequence[str],
    limit: Limit,
    root: Path,
    keep: int,
    listener: Listener,
    pool: Pool | None = None,
    builders: Sequence[BuilderProcess] | None = None,
) -> TuneResult:
    """Search, verify and keep.

    Parameters
    ----------
    case : Case
        What to tune.
    target : ResolvedTarget
        What for; of the devices of ``pool``, where one is given.
    spaces : Sequence[str]
        Names of the design spaces that share ``limit``.
    root : Path
        Of the database that takes the records.
    keep : int
        Records kept of each space.
    listener : Callable[[SearchState], None]
        Told how the search stands.
    pool : Pool, optional
        Of devices; the machine at hand when absent.
    builders : Sequence[BuilderProcess], optional
        Started and closed by the caller; one worker for each core when absent.

    Raises
    ------
    NotWritableError
        If ``root`` takes no records.
    NothingFoundError
        If no candidate was correct.
    """
    machine = pool.machine if pool is not None else None
    machine = machine or machine_here(target)
    store = RecordStore.open(root, target.key, create=True)
    store.add([])  # refuses a read-only folder now rather than after the search
    log = TrialLog(log_path(case, target.key, root), _versions(machine))
    interrupted = False
    warm = nearest_trials(store, case, spaces)
    chosen = [SPACES[name] for name in spaces]
    with Search(
        case, target, chosen, log, listener, pool=pool, builders=builders, warm=warm
    ) as search:
        try:
            search.run(limit)
        except KeyboardInterrupt:
            interrupted = True
        state = search.state
        state.activity = "verifying the best on fresh inputs"
        listener(state)
        kept = [
            entry
            for space in spaces
            for entry in _keep_best(search, machine, _best(search.trials, space, keep), keep)
        ]
        state.faults = search.faults()
    if not kept and not interrupted:
        raise NothingFoundError(_nothing_found(case.on(target.key), state, log.path))
    store.add(kept)
    store.prune(keep)
    kept.sort(key=lambda entry: entry.speed)
    return TuneResult(state, tuple(kept), interrupted, log.path)


def _versions(machine: Machine) -> dict[str, str]:
    """Of what builds here and of what measures there."""
    return {**machine.versions, **backend_of(machine.target.kind).compiler_versions()}


def log_path(case: Case, key: TargetKey, root: Path) -> Path:
    """Of the trials of a case in a database."""
    return root / str(key) / "trials" / f"{_slug(case)}.jsonl"


def _best(trials: Sequence[Trial], space: str, keep: int) -> list[Trial]:
    """The fastest distinct successes of a space, a few more than are kept."""
    distinct = {trial.identity: trial for trial in trials if trial.space == space}
    succeeded = [trial for trial in distinct.values() if not trial.failure]
    return sorted(succeeded, key=lambda trial: trial.seconds)[: keep + _SPARE_FINALISTS]


def _keep_best(search: Search, machine: Machine, finalists: list[Trial], keep: int) -> list[Entry]:
    """Verify finalists and time them side by side: single timings favour the lucky."""
    case = search.case
    timeout = max((SPACES[trial.space].build_timeout for trial in finalists), default=0.0)
    built = search.build(
        (_scheduled(case, trial, search.target.kind).mod for trial in finalists), timeout
    )
    paths = [path for path, outcome in built if outcome.status == "ok"]
    errors = _largest_errors(case, search.target.kind, paths, search.pool)
    verified = [
        (trial, path, errors[path])
        for trial, (path, _) in zip(finalists, built, strict=True)
        if errors.get(path, math.inf) <= TOLERANCE[case.spec.dtype]
    ]
    tried = sum(trial.space == finalists[0].space for trial in search.trials) if finalists else 0
    times = _time_all(case, search.target.kind, [path for _, path, _ in verified], search.pool)
    ranked = sorted(zip(verified, times, strict=True), key=lambda each: statistics.median(each[1]))
    return [
        _entry(case, search.target, machine, trial, seconds, error, tried)
        for (trial, _, error), seconds in ranked[:keep]
    ]


def _largest_errors(case: Case, kind: str, paths: Sequence[str], pool: Pool) -> dict[str, float]:
    """Largest errors of kernels on inputs not seen before; infinite for one that cannot be run.

    Batch by batch: inputs and references are made for all kernels at once.
    """
    errors = dict.fromkeys(paths, 0.0)
    for batch in batches_to_verify(case):
        for path, error in errors.items():
            if error <= TOLERANCE[case.spec.dtype]:
                errors[path] = max(error, _verify(case, kind, path, batch, pool))
    return errors


def _verify(case: Case, kind: str, path: str, batch: tuple[int, ...], pool: Pool) -> float:
    for _ in range(_TRIES):  # the first time, the device may be to blame
        with contextlib.suppress(WorkerFailedError), pool.lease() as runner:
            return largest_error(case, kind, path, runner, [batch])
    return math.inf


def _time_all(case: Case, kind: str, paths: Sequence[str], pool: Pool) -> list[tuple[float, ...]]:
    """Times of several kernels in turns, all on one device."""
    if not paths:
        return []
    for _ in range(_TRIES - 1):
        with contextlib.suppress(WorkerFailedError), pool.lease() as runner:
            return _interleaved(case, kind, paths, runner)
    with pool.lease() as runner:
        return _interleaved(case, kind, paths, runner)


def _interleaved(
    case: Case, kind: str, paths: Sequence[str], runner: Runner
) -> list[tuple[float, ...]]:
    arguments = (case.spec, case.shape, case.batches(), case.seed)
    engine = backend_of(kind).engine
    return interleave(
        [
            lambda seconds, path=path: _value(
                runner.call(engine.time_kernel, path, *arguments, seconds, timeout=_CHECK_TIMEOUT)
            )
            for path in paths
        ],
        seconds=engine.round_seconds,
    )


def _scheduled(case: Case, trial: Trial, kind: str) -> Any:
    from tvm.s_tir import Schedule
    from tvm.s_tir.schedule import Trace

    space = SPACES[trial.space]
    schedule = Schedule(space.describe(case.spec, case.shape, trial.variant, kind))
    Trace.apply_json_to_schedule(trial.trace, schedule)
    return schedule


def _entry(
    case: Case,
    target: ResolvedTarget,
    machine: Machine,
    trial: Trial,
    seconds: Sequence[float],
    error: float,
    trials: int,
) -> Entry:
    schedule = _scheduled(case, trial, target.kind)
    space = SPACES[trial.space]
    provenance = Provenance(
        spec=str(case.spec),
        shape=str(case.shape),
        space=trial.space,
        variant=dict(trial.variant),
        lens=case.lens.text,
        median_secs=statistics.median(seconds),
        spread_secs=interquartile_range(seconds),
        max_abs_error=error,
        trials=trials,
        seed=case.seed,
        versions=_versions(machine),
        device=dict(machine.device),
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )
    return entry_from(
        space.describe(case.spec, case.shape, trial.variant, target.kind),
        schedule.trace,
        seconds,
        target.target,
        provenance,
    )


def _value(outcome: Outcome) -> float:
    if outcome.status != "ok":
        raise WorkerFailedError(
            f"a kernel that had been verified could not be timed ({outcome.status}: "
            f"{outcome.detail}); run again, and report it if it happens again"
        )
    return outcome.value


def _slug(case: Case) -> str:
    lens = case.lens.text.replace(":", "_").replace("/", "_")
    return f"{case.spec}__{case.shape}__{lens}"


def _nothing_found(name: str, state: SearchState, log: Path) -> str:
    failures = ", ".join(f"{count} {kind}" for kind, count in sorted(state.failures.items()))
    return (
        f"no correct candidate for {name} in {state.trials} trials ({failures or 'no failures'}); "
        f"every failure is in {log}; allow more with --trials or --budget"
    )
