"""Tuning one case from end to end: search, verify the best on fresh inputs, keep them."""

from __future__ import annotations

import contextlib
import hashlib
import math
import statistics
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...database import (
    Entry,
    Finder,
    NotWritableError,
    Provenance,
    RecordStore,
    TargetKey,
    committed_root,
    rescued_records,
)
from ...database.dates import date_now
from ...workloads import TOLERANCE, Case
from ...workloads.sizes import measured_sizes
from ..backends import backend_of
from ..building.replaying import Replayed, replay
from ..building.sources import sources_digest
from ..counting import count
from ..devices.machine import Machine, machine_here
from ..devices.pool import Pool
from ..ending import Wish
from ..errors import NothingFoundError, WorkerFailedError
from ..measuring.engine import Engine
from ..measuring.kernels import KEPT_SEED, check, fresh_inputs, time_in_turns, value_of
from ..measuring.timing import interquartile_range
from ..measuring.worker import Outcome
from ..spaces import SPACES
from ..swept import swept_records
from ..target import ResolvedTarget
from .blocks import asking_for_more, worth_keeping
from .builders import BuilderProcess
from .search import Search
from .state import Limit, Listener, SearchState
from .trial_log import Trial, TrialLog
from .warm_start import nearest_trials

# Verified beside those that are kept, for some may turn out wrong, or slower than they seemed.
_SPARE_FINALISTS = 2
# In bytes: with the ending of a log, what a file system takes.
_LONGEST_SLUG = 249
# Of checking or timing a finalist: a device may fail once without the kernel being blamed.
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
        Whether it was wished that the search ends before its budget did; then the best alone is
        kept.
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
    wish: Wish | None = None,
) -> TuneResult:
    """Search, verify and keep.

    Parameters
    ----------
    case : Case
        What to tune; records are of what it is :attr:`~prefilltune.workloads.Case.as_tuned`.
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
    wish : Wish, optional
        That it ends early.

    Raises
    ------
    NotWritableError
        If ``root`` takes no records.
    NothingFoundError
        If no candidate was correct.
    """
    case = case.as_tuned
    machine = pool.machine if pool is not None else None
    machine = machine or machine_here(target)
    store = RecordStore.open(root, target.key, create=True)
    stamp = {**_versions(machine), "sources": sources_digest()}
    log = TrialLog(log_path(case, target.key, root), stamp)
    wish = wish or Wish()
    store.require_writable()  # now rather than after the search
    log.append([])
    warm = nearest_trials(store, case, spaces, _stores_near(target, root))
    chosen = [SPACES[name] for name in spaces]
    with Search(
        case, target, chosen, log, listener, pool=pool, builders=builders, warm=warm, wish=wish
    ) as search:
        state = search.run(limit)
        interrupted = wish.is_made
        if interrupted:  # by someone who waits: the others are in the log
            finalists = [_succeeded(search.trials if state.trials else [], spaces)[:1]]
        else:
            finalists = [_finalists(search.trials, space, keep) for space in spaces]
        state.activity = "verifying the best on fresh inputs"
        listener(state)
        kept = [entry for each in finalists for entry in _keep_best(search, machine, each, keep)]
        state.faults = search.faults()
    if not kept and not wish.is_made:
        raise NothingFoundError(_nothing_found(case.on(target.key), state, log.path))
    kept = [_later(entry, store.entry(entry.record_id)) for entry in kept]
    try:
        store.add(kept)
        store.prune(keep, swept_records(store.folder))
    except NotWritableError as error:
        raise rescued_records(error, {target.key: kept}, root) from error
    kept.sort(key=lambda entry: entry.speed)
    return TuneResult(state, tuple(kept), interrupted, log.path)


def _stores_near(target: ResolvedTarget, root: Path) -> Iterator[RecordStore]:
    """What else has records that the target runs, the nearest first."""
    finder = Finder([root, committed_root()])
    own = root / str(target.key)
    for store in finder.stores(target.key, backend_of(target.kind).furthest):
        if store.folder != own:
            yield store


def _versions(machine: Machine) -> dict[str, str]:
    """Of what builds here and of what measures there."""
    return {**machine.versions, **backend_of(machine.target.kind).compiler_versions()}


def log_path(case: Case, key: TargetKey, root: Path) -> Path:
    """Of the trials of a case in a database."""
    return root / str(key) / "trials" / f"{_slug(case)}.jsonl"


def _succeeded(trials: Sequence[Trial], spaces: Collection[str]) -> list[Trial]:
    """The distinct successes of some spaces, the fastest first."""
    distinct = {trial.identity: trial for trial in trials if trial.space in spaces}
    succeeded = [trial for trial in distinct.values() if not trial.failure]
    return sorted(succeeded, key=lambda trial: trial.seconds)


def _finalists(trials: Sequence[Trial], space: str, keep: int) -> list[Trial]:
    """The best of a space, and beside each what differs in asking for more blocks alone."""
    succeeded = _succeeded(trials, [space])
    best = succeeded[: keep + _SPARE_FINALISTS]
    more = (each for trial in best for each in asking_for_more(trial, succeeded))
    return [*{trial.identity: trial for trial in (*best, *more)}.values()]


def _keep_best(search: Search, machine: Machine, finalists: list[Trial], keep: int) -> list[Entry]:
    """Verify finalists and time them side by side: single timings favour the lucky."""
    case, target, pool = search.case, search.target, search.pool
    engine = backend_of(target.kind).engine
    replayed = [_replayed(case, trial) for trial in finalists]
    timeout = max((SPACES[trial.space].build_timeout for trial in finalists), default=0.0)
    built = search.build((each.module for each in replayed), timeout)
    paths = [path for path, outcome in built if outcome.status == "ok"]
    fresh = fresh_inputs(case, KEPT_SEED)
    checked = check(engine.check_kernel, case, paths, _SecondDevice(pool), *fresh)
    errors = {path: found.value for path, found in checked.items() if found.status == "ok"}
    verified = [
        (trial, each, path)
        for trial, each, (path, _) in zip(finalists, replayed, built, strict=True)
        if errors.get(path, math.inf) <= TOLERANCE[case.spec.dtype]
    ]
    times = _times(engine, case, [path for _, _, path in verified], pool)
    tried = Counter(trial.space for trial in search.trials)
    timed = [
        (trial, statistics.median(seconds), (each, path, seconds))
        for (trial, each, path), seconds in zip(verified, times, strict=True)
    ]
    ranked = worth_keeping(sorted(timed, key=lambda each: each[1]))
    return [
        each.entry(
            seconds,
            target.recorded or target.target,
            Provenance(
                spec=str(case.spec),
                shape=str(case.shape),
                space=trial.space,
                variant=dict(trial.variant),
                lens=case.lens.text,
                median_secs=median,
                spread_secs=interquartile_range(seconds),
                max_abs_error=errors[path],
                trials=tried[trial.space],
                seed=case.seed,
                versions=_versions(machine),
                device=dict(machine.device),
                date=date_now(),
            ),
        )
        for trial, median, (each, path, seconds) in ranked[:keep]
    ]


def _later(entry: Entry, replaced: Entry | None) -> Entry:
    """A record, dated after the one that it replaces."""
    if replaced is None:
        return entry
    date = date_now(after=replaced.provenance.date)
    return replace(entry, provenance=replace(entry.provenance, date=date))


def _replayed(case: Case, trial: Trial) -> Replayed:
    sizes = measured_sizes(case.spec, case.shape)
    return replay(SPACES[trial.space], case.spec, sizes, trial.variant, trial.trace)


class _SecondDevice:
    """Devices of a pool, each for one call: where one fails, another says whose fault it was."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def call(self, function: Callable[..., Any], *args: Any, timeout: float) -> Outcome:
        """Call a function of an engine, and once more if that fails."""
        outcome = Outcome("lost")
        for _ in range(_TRIES):
            with contextlib.suppress(WorkerFailedError), self._pool.lease() as runner:
                outcome = runner.call(function, *args, timeout=timeout)
                value_of(outcome, function)
                break
        return outcome

    def restart(self) -> None:
        """Nothing is left to do: the pool restarts what fails while it is leased."""


def _times(engine: Engine, case: Case, paths: Sequence[str], pool: Pool) -> list[tuple[float, ...]]:
    """Times of kernels in turns, all on one device; on another one if that fails."""
    if not paths:
        return []
    for _ in range(_TRIES - 1):
        with contextlib.suppress(WorkerFailedError), pool.lease() as runner:
            return time_in_turns(engine, case, paths, runner)
    with pool.lease() as runner:
        return time_in_turns(engine, case, paths, runner)


def _slug(case: Case) -> str:
    lens = case.lens.text.replace(":", "_").replace("/", "_")
    name = f"{case.spec}__{case.shape}__{lens}"
    if len(name.encode()) <= _LONGEST_SLUG:
        return name
    # A file of lengths may have any path.
    return f"{case.spec}__{case.shape}__{hashlib.sha256(lens.encode()).hexdigest()}"


def _nothing_found(name: str, state: SearchState, log: Path) -> str:
    failures = ", ".join(f"{number} {kind}" for kind, number in sorted(state.failures.items()))
    return (
        f"no correct candidate for {name} in {count(state.trials, 'trial')} "
        f"({failures or 'no failures'}); every failure is in {log}; "
        "search again with more trials or time"
    )
