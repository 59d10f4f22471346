"""Running a tuning plan: slices of search, each for the workload that promises most."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ..arm import Case
from ..devices.pool import Pool
from ..duration import format_duration
from ..errors import NothingFoundError, PlanRunningError
from ..search import Limit, Listener
from ..tune import TuneResult, tune_case
from .plan import Plan
from .progress import Ledger, Slice, ledger_path, planned, read_ledger


@dataclass(frozen=True)
class PlannedCase:
    """A workload of a plan on one of its targets.

    Parameters
    ----------
    case : Case
        What to tune.
    spaces : Sequence[str]
        Names of design spaces.
    pool : Pool, optional
        Of the target's devices; the machine at hand when absent.
    """

    case: Case
    spaces: Sequence[str]
    pool: Pool | None


#: Shows a search with the given title to people.
Display = Callable[[str], AbstractContextManager[Listener]]


def run_plan(
    plan: Plan,
    cases: Sequence[PlannedCase],
    root: Path,
    display: Display,
    tell: Callable[[str], None],
) -> bool:
    """Search until every workload is done or the budget is spent.

    Parameters
    ----------
    plan : Plan
        Says how long, and how much at a time.
    cases : Sequence[PlannedCase]
        Every workload on every target.
    root : Path
        Of the database, which also holds how far the plan is.
    display : Callable[[str], AbstractContextManager[Listener]]
        Shows a search with the given title, by what it yields.
    tell : Callable[[str], None]
        Given a line after every slice.

    Returns
    -------
    bool
        Whether it ended by itself; else it was interrupted.

    Raises
    ------
    PlanRunningError
        If another process runs the plan.
    """
    by_name = {str(each.case): each for each in cases}
    with plan_lock(root, plan.name):
        ledger = read_ledger(ledger_path(root, plan.name))
        ledger.seconds, ledger.most_trials = plan.seconds, plan.trials
        ledger.progress = planned(ledger, by_name)
        ledger.write()
        while ledger.spent < plan.seconds and (name := ledger.next_case()) is not None:
            if not _run_slice(plan, by_name[name], ledger, root, display, tell):
                return False
    return True


@contextmanager
def plan_lock(root: Path, name: str) -> Iterator[None]:
    """Keep other processes from running the same plan; freed whenever this one ends.

    Raises
    ------
    PlanRunningError
        If one does already.
    """
    path = ledger_path(root, name).with_suffix(".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise PlanRunningError(
            f"another process runs the plan {name} on {root}; wait for its end, or see how it "
            "stands with: prefilltune status"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _run_slice(
    plan: Plan,
    chosen: PlannedCase,
    ledger: Ledger,
    root: Path,
    display: Display,
    tell: Callable[[str], None],
) -> bool:
    """Search for one workload for a while; whether nobody interrupted it."""
    name, start = str(chosen.case), time.monotonic()
    done = ledger.progress[name]
    trials = plan.slice if plan.trials is None else min(plan.slice, plan.trials - done.trials)
    left = plan.seconds - ledger.spent
    result: TuneResult | None = None
    with display(name) as listener:
        try:
            result = tune_case(
                chosen.case,
                chosen.spaces,
                Limit(trials, left),
                root,
                plan.keep,
                listener,
                chosen.pool,
            )
        except NothingFoundError as error:
            tell(str(error))
    seconds = time.monotonic() - start
    if result is None:
        ledger.add(name, Slice(done.trials + trials, None, seconds), {})
        return True
    if result.interrupted:
        return False  # what it measured is in the log, and the next slice counts it
    state = result.state
    best = None if math.isinf(state.best_seconds) else state.best_seconds
    exhausted = state.trials < trials and state.elapsed < left
    found = Slice(state.restored + state.trials, best, seconds, exhausted)
    ledger.add(name, found, state.faults)
    now = ledger.progress[name]
    tell(
        f"{name}: {now.trials} trials, best {_milliseconds(best)}, "
        f"{now.ended(plan.trials) or 'to be gone on with'}; "
        f"{format_duration(ledger.spent)} of {format_duration(plan.seconds)}"
    )
    return True


def _milliseconds(seconds: float | None) -> str:
    return "none" if seconds is None else f"{seconds * 1e3:.4g} ms"
