"""Running a tuning plan: slices of search, each for a workload that promises most."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ...workloads import Case, PrefilltuneError
from ..backends import backend_of
from ..devices.machine import Wanted
from ..duration import format_duration
from ..errors import NothingFoundError, PlanRunningError, SearchDiedError
from ..search.search import Limit, Listener
from ..search.tune import TuneResult
from ..target import ResolvedTarget, usable_cores
from .plan import Plan
from .progress import Ledger, Slice, ledger_path, planned, read_ledger
from .searcher import Allotment, Assignment, Searcher, Searchers
from .sharing import HERE, Devices, most_at_once, share


@dataclass(frozen=True)
class PlannedCase:
    """A workload of a plan on one of its targets.

    Parameters
    ----------
    case : Case
        What to tune.
    target : ResolvedTarget
        What for.
    spaces : tuple[str, ...]
        Names of design spaces.
    wanted : Wanted
        The target, as its devices are asked for it.
    devices : Devices
        Of the target.
    """

    case: Case
    target: ResolvedTarget
    spaces: tuple[str, ...]
    wanted: Wanted
    devices: Devices

    @property
    def name(self) -> str:
        """By which people and the plan's ledger know it."""
        return self.case.on(self.target.key)

    @property
    def alone(self) -> bool:
        """Whether any other search would disturb what it measures."""
        return self.devices == HERE and backend_of(self.target.kind).engine.alone


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
        Shows a search with the given title, by what it yields; from any thread.
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
    PrefilltuneError
        The first error of a search, once the others have done what can be done without its devices.
    """
    with plan_lock(root, plan.name):
        ledger = read_ledger(ledger_path(root, plan.name))
        ledger.seconds, ledger.most_trials = plan.seconds, plan.trials
        ledger.progress = planned(ledger, [each.name for each in cases])
        ledger.searching = []
        ledger.write()
        with _Run(plan, cases, ledger, root, display, tell) as run:
            ended = run.until_done()
        if run.error is not None:
            raise run.error
        return ended


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


@dataclass(frozen=True)
class _Begun:
    """A slice under way."""

    chosen: PlannedCase
    searcher: Searcher
    limit: Limit
    trials: int
    started: float

    @property
    def name(self) -> str:
        return self.chosen.name

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


class _Run:
    """A run of a plan; a context manager that owns its processes."""

    def __init__(
        self,
        plan: Plan,
        cases: Sequence[PlannedCase],
        ledger: Ledger,
        root: Path,
        display: Display,
        tell: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._cases = {each.name: each for each in cases}
        self._ledger = ledger
        self._root = root
        self._display = display
        self._tell = tell
        cores = usable_cores()
        beside = list(dict.fromkeys(each.devices for each in cases if not each.alone))
        most = most_at_once(beside, plan.searches, cores)
        self._at_once = max(1, min(plan.searches or cores, sum(most.values())))
        self._most = {HERE: 1, **most}
        self._builders = max(1, cores // self._at_once)
        self._running: dict[Future[TuneResult | None], _Begun] = {}
        self._given_up: set[str] = set()
        self.error: PrefilltuneError | None = None
        self._noted = time.monotonic()
        self._stack = ExitStack()

    def __enter__(self) -> _Run:
        self._threads = self._stack.enter_context(ThreadPoolExecutor(self._at_once))
        self._searchers = self._stack.enter_context(Searchers())
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.__exit__(*exc)  # pyright: ignore

    def until_done(self) -> bool:
        """Search until nothing can be begun; whether nobody interrupted it."""
        try:
            self._begin_all()
            while self._running:
                done, _ = wait(self._running, return_when=FIRST_COMPLETED)
                for each in done:
                    self._note(each)
                self._begin_all()
        except KeyboardInterrupt:
            for begun in self._running.values():
                begun.searcher.interrupt()
            wait(self._running)
            for begun in self._running.values():
                self._searchers.give_back(begun.searcher)
            return False  # what was measured is in the logs, and the next slices count it
        return True

    def _begin_all(self) -> None:
        while (chosen := self._next()) is not None:
            self._begin(chosen)

    def _next(self) -> PlannedCase | None:
        """What to search for next, if it can be begun now."""
        if len(self._running) == self._at_once or self._seconds_left() <= 0:
            return None
        barred = {name for name, each in self._cases.items() if not self._has_room(each)}
        name = self._ledger.next_case(barred | self._given_up | set(self._ledger.searching))
        if name is None:
            return None
        chosen = self._cases[name]
        beside = [each.chosen for each in self._running.values()]
        if beside and any(each.alone for each in (chosen, *beside)):
            return None  # it waits for those before it, and those after it wait for it
        return chosen

    def _has_room(self, chosen: PlannedCase) -> bool:
        devices = chosen.devices
        return self._to_begin(devices) > 0 and not self._searchers.taken.issuperset(devices)

    def _to_begin(self, devices: Devices) -> int:
        """How many searches may be begun on a group of devices, and have something to do."""
        of_group = [name for name, each in self._cases.items() if each.devices == devices]
        wanting = set(of_group) & set(self._ledger.undone) - self._given_up
        running = len(wanting & set(self._ledger.searching))
        return min(self._most[devices], len(wanting)) - running

    def _seconds_left(self) -> float:
        return self._plan.seconds - self._ledger.spent - (time.monotonic() - self._noted)

    def _begin(self, chosen: PlannedCase) -> None:
        plan, name = self._plan, chosen.name
        done = self._ledger.progress[name].trials
        trials = plan.slice if plan.trials is None else min(plan.slice, plan.trials - done)
        limit = Limit(trials, self._seconds_left())
        devices = share(chosen.devices, self._searchers.taken, self._to_begin(chosen.devices))
        builders = usable_cores() if chosen.alone else self._builders
        searcher = self._searchers.take(Allotment(devices, chosen.wanted, builders))
        self._ledger.searching.append(name)
        self._ledger.write()
        begun = _Begun(chosen, searcher, limit, trials, time.monotonic())
        self._running[self._threads.submit(self._search, begun)] = begun

    def _search(self, begun: _Begun) -> TuneResult | None:
        chosen = begun.chosen
        assignment = Assignment(
            chosen.case, chosen.target, chosen.spaces, begun.limit, self._root, self._plan.keep
        )
        with self._display(begun.name) as listener:
            return begun.searcher.search(assignment, listener)

    def _note(self, ended: Future[TuneResult | None]) -> None:
        """Note a slice that ended, and have its process ready for another."""
        begun = self._running.pop(ended)
        done = self._ledger.progress[begun.name]
        try:
            result = ended.result()
        except NothingFoundError as error:
            self._searchers.give_back(begun.searcher)
            self._add(begun, Slice(done.trials + begun.trials, None, begun.seconds), {})
            self._tell(str(error))
        except SearchDiedError as error:
            self._searchers.end(begun.searcher)
            self._add(begun, Slice(done.trials, done.best, begun.seconds), {"search died": 1})
            self._tell(str(error))
        except PrefilltuneError as error:  # its process keeps the devices: none is of use
            self._given_up.add(begun.name)
            self._ledger.searching.remove(begun.name)
            self._tell(f"{begun.name} is given up until the plan is run again: {error}")
            self.error = self.error or error
        else:
            if result is None or result.interrupted:
                raise KeyboardInterrupt
            self._searchers.give_back(begun.searcher)
            self._add(begun, _slice(begun, result), result.state.faults)
            self._tell(self._line(begun.name))

    def _add(self, begun: _Begun, found: Slice, faults: Mapping[str, int]) -> None:
        now, ledger = time.monotonic(), self._ledger
        ledger.spent += now - self._noted
        self._noted = now
        ledger.searching.remove(begun.name)
        ledger.add(begun.name, found, faults)

    def _line(self, name: str) -> str:
        now = self._ledger.progress[name]
        best = "none" if now.best is None else f"{now.best * 1e3:.4g} ms"
        return (
            f"{name}: {now.trials} trials, best {best}, "
            f"{now.ended(self._plan.trials) or 'to be gone on with'}; "
            f"{format_duration(self._ledger.spent)} of {format_duration(self._plan.seconds)}"
        )


def _slice(begun: _Begun, result: TuneResult) -> Slice:
    state, limit = result.state, begun.limit
    best = None if math.isinf(state.best_seconds) else state.best_seconds
    assert limit.seconds is not None
    exhausted = state.trials < begun.trials and state.elapsed < limit.seconds
    return Slice(state.restored + state.trials, best, begun.seconds, exhausted)
