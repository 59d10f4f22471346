"""Running a tuning plan: slices of search, each for a workload that promises most."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

from ...database.writing import require_writable
from ...workloads import PrefilltuneError
from ..duration import format_duration
from ..ending import Wish
from ..errors import NothingFoundError, SearchDiedError
from ..search.state import Limit, Listener
from ..search.tune import TuneResult
from .agenda import Agenda, PlannedCase
from .ledger import Ledger, ledger_path, plan_lock, planned, read_ledger
from .plan import Plan
from .progress import Slice
from .searcher import Assignment, Searcher, Searchers

#: Shows a search with the given title to people.
Display = Callable[[str], AbstractContextManager[Listener]]


def run_plan(
    plan: Plan,
    cases: Sequence[PlannedCase],
    root: Path,
    display: Display,
    tell: Callable[[str], None],
    wish: Wish | None = None,
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
    wish : Wish, optional
        That all searches end early, keeping what they found.

    Returns
    -------
    bool
        Whether it ended by itself; else that was wished.

    Raises
    ------
    NotWritableError
        If ``root`` takes nothing.
    PlanRunningError
        If another process runs the plan.
    PrefilltuneError
        The first error of a search, once the others have done what can be done without its devices.
    """
    require_writable(root)
    with plan_lock(root, plan.name):
        ledger = read_ledger(ledger_path(root, plan.name))
        ledger.seconds, ledger.most_trials = plan.seconds, plan.trials
        ledger.progress = planned(ledger, [each.name for each in cases])
        ledger.searching = []
        ledger.write()
        with _Run(plan, cases, ledger, root, display, tell, wish or Wish()) as run:
            ended = run.until_done()
        if run.error is not None:
            raise run.error
        if ended and (unbegun := ledger.unbegun):
            tell(
                f"the budget of {format_duration(plan.seconds)} ended before {len(unbegun)} of "
                f"{len(ledger.progress)} workloads were begun, the first of them {unbegun[0]}; "
                "raise `budget` in the plan, and run the same command again to go on"
            )
        return ended


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
        wish: Wish,
    ) -> None:
        self._plan = plan
        self._wish = wish
        self._ledger = ledger
        self._root = root
        self._display = display
        self._tell = tell
        self._agenda = Agenda(plan, cases, ledger)
        self._running: dict[Future[TuneResult], _Begun] = {}
        self.error: PrefilltuneError | None = None
        self._noted = time.monotonic()
        self._stack = ExitStack()

    def __enter__(self) -> _Run:
        self._threads = self._stack.enter_context(ThreadPoolExecutor(self._agenda.at_once))
        self._searchers = self._stack.enter_context(Searchers())
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.__exit__(*exc)  # pyright: ignore

    def until_done(self) -> bool:
        """Search until nothing can be begun; whether it was not wished that this ends."""
        with self._wish.told(self._interrupt):
            self._begin_all()
            while self._running:
                done, _ = wait(self._running, return_when=FIRST_COMPLETED)
                for each in done:
                    self._note(each)
                self._begin_all()
        return not self._wish.is_made

    def _interrupt(self) -> None:
        """Have the searches that run end early; in any thread."""
        for begun in list(self._running.values()):
            begun.searcher.interrupt()

    def _begin_all(self) -> None:
        while self._seconds_left() > 0 and not self._wish.is_made:
            chosen = self._agenda.next_case(self._searchers.taken)
            if chosen is None:
                return
            self._begin(chosen)

    def _seconds_left(self) -> float:
        return self._plan.seconds - self._ledger.spent - (time.monotonic() - self._noted)

    def _begin(self, chosen: PlannedCase) -> None:
        plan, name = self._plan, chosen.name
        done = self._ledger.progress[name].trials
        trials = plan.slice if plan.trials is None else min(plan.slice, plan.trials - done)
        limit = Limit(trials, self._seconds_left())
        searcher = self._searchers.take(self._agenda.allotment(chosen, self._searchers.taken))
        self._ledger.searching.append(name)
        self._ledger.write()
        begun = _Begun(chosen, searcher, limit, trials, time.monotonic())
        self._running[self._threads.submit(self._search, begun)] = begun
        if self._wish.is_made:  # since it was asked, and before this one could be told
            searcher.interrupt()

    def _search(self, begun: _Begun) -> TuneResult:
        chosen = begun.chosen
        assignment = Assignment(
            chosen.case, chosen.target, chosen.spaces, begun.limit, self._root, self._plan.keep
        )
        with self._display(begun.name) as listener:
            return begun.searcher.search(assignment, listener)

    def _note(self, ended: Future[TuneResult]) -> None:
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
        except PrefilltuneError as error:
            # Its process is not given back: it keeps the devices, none of which is of use.
            self._agenda.give_up(begun.name)
            self._ledger.searching.remove(begun.name)
            self._tell(f"{begun.name} is given up until the plan is run again: {error}")
            self.error = self.error or error
        else:
            self._searchers.give_back(begun.searcher)
            if result.interrupted:  # what it measured is in its log, and the next slice counts it
                self._wish.make()
                return
            self._add(begun, _slice(begun, result), result.state.faults)
            self._tell(self._ledger.line(begun.name))
            if result.state.shortfall:
                self._tell(f"{begun.name}: {result.state.shortfall}")

    def _add(self, begun: _Begun, found: Slice, faults: Mapping[str, int]) -> None:
        now, ledger = time.monotonic(), self._ledger
        ledger.spent += now - self._noted
        self._noted = now
        ledger.searching.remove(begun.name)
        ledger.add(begun.name, found, faults)


def _slice(begun: _Begun, result: TuneResult) -> Slice:
    state, limit = result.state, begun.limit
    best = None if math.isinf(state.best_seconds) else state.best_seconds
    assert limit.seconds is not None
    early = state.trials < begun.trials and state.elapsed < limit.seconds
    exhausted = early and not state.beyond  # else the next slice goes on with these
    return Slice(state.restored + state.trials, best, begun.seconds, exhausted)
