"""What searches show while they run: live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Column, Table

from ..counting import count
from ..duration import format_duration
from ..tables import fitted
from .state import Listener, SearchState

_PLAIN_SECONDS = 10.0
# Around the title of a panel.
_FRAME = 6


class SearchDisplay:
    """A context manager whose :meth:`update` is a listener of a search.

    Parameters
    ----------
    console : rich.console.Console
        Where to.
    title : str
        What is tuned.
    """

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._lines = _Lines(console, "  ")
        self._state: SearchState | None = None
        self._live = _live(console, self._render)

    def __enter__(self) -> SearchDisplay:
        if self._live is not None:
            self._live.start()
        else:
            self._console.print(f"tuning {self._title}", soft_wrap=True)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, state: SearchState) -> None:
        """Show how the search stands."""
        self._state = state
        if self._live is None:
            self._lines.show(state)

    def _render(self) -> Panel | str:
        return self._title if self._state is None else self._panel(self._state)

    def _panel(self, state: SearchState) -> Panel:
        table = Table.grid(Column(overflow="fold"), Column(overflow="fold"), padding=(0, 2))
        title = self._title
        if cell_len(title) + _FRAME > self._console.width:
            title = ""
            table.add_row("tuning", self._title)
        table.add_row("progress", ProgressBar(total=1.0, completed=_share_done(state), width=40))
        table.add_row("trials", _trials(state))
        table.add_row("best", _best(state))
        if not state.has_baseline:
            table.add_row("baseline", "none: TVM has no hand-written kernel for it")
        elif not math.isnan(state.baseline_seconds):
            baseline = f"{state.baseline_seconds * 1e3:.3f} ms (TVM's hand-written kernel)"
            table.add_row("baseline", baseline)
        table.add_row("failures", _failures(state))
        table.add_row("time", f"{format_duration(state.elapsed)}, {_time_left(state)} left")
        table.add_row("now", state.activity)
        return Panel(table, title=title, subtitle="Ctrl-C keeps what was found", expand=False)


class PlanDisplay:
    """A context manager that shows searches side by side.

    Parameters
    ----------
    console : rich.console.Console
        Where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._states: dict[str, SearchState | None] = {}
        self._live = _live(console, self._render)

    def __enter__(self) -> PlanDisplay:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            self._live.stop()

    @contextmanager
    def search(self, title: str) -> Iterator[Listener]:
        """Show a search as long as it runs, by what is yielded; from any thread."""
        lines = _Lines(self._console, f"  {title}: ")

        def update(state: SearchState) -> None:
            self._states[title] = state
            if self._live is None:
                lines.show(state)

        self._states[title] = None
        if self._live is None:
            self._console.print(f"tuning {title}", soft_wrap=True)
        try:
            yield update
        finally:
            del self._states[title]

    def _render(self) -> RenderableType:
        table = Table(
            Column("searching", overflow="fold"),
            *("time", "trials", "best", "now"),
            caption="Ctrl-C keeps what was found",
        )
        for title, state in list(self._states.items()):
            if state is None:
                table.add_row(title, "", "", "", "starting")
            else:
                time_spent = format_duration(state.elapsed)
                table.add_row(title, time_spent, _trials(state), _best(state), state.activity)
        return fitted(table, self._console)


class _Lines:
    """Prints how a search stands: when it has found something better, and now and then."""

    def __init__(self, console: Console, start: str) -> None:
        self._console = console
        self._start = start
        self._shown_at = -math.inf
        self._shown_best = math.inf

    def show(self, state: SearchState) -> None:
        """Print a line if one is due."""
        now = time.monotonic()
        if state.best_seconds < self._shown_best or now - self._shown_at >= _PLAIN_SECONDS:
            self._shown_at, self._shown_best = now, state.best_seconds
            self._console.print(self._start + "; ".join(_facts(state)), soft_wrap=True)


def _live(console: Console, render: Callable[[], RenderableType]) -> Live | None:
    """What is rendered anew several times a second, for clocks to go on; on terminals alone."""
    if not console.is_terminal or console.is_dumb_terminal:
        return None
    return Live(console=console, refresh_per_second=4, transient=True, get_renderable=render)


def _facts(state: SearchState) -> list[str]:
    return [
        f"{format_duration(state.elapsed)} {_trials(state)}",
        f"best {_best(state)}",
        _failures(state),
        *([f"{_time_left(state)} left"] if state.limit.seconds is not None else []),
        state.activity,
    ]


def _best(state: SearchState) -> str:
    if math.isinf(state.best_seconds):
        return "none yet"
    best = f"{state.best_seconds * 1e3:.3f} ms"
    if math.isnan(state.baseline_seconds):
        return f"{best} ({state.best_label})"
    ratio = state.baseline_seconds / state.best_seconds
    return f"{best}, {ratio:.1f}x the baseline ({state.best_label})"


def _trials(state: SearchState) -> str:
    number = state.limit.trials
    done = count(state.trials, "trial")
    if number is not None:
        done = f"{state.trials} of {count(number, 'trial')}"
    earlier = f" (and {state.restored} from earlier runs)" if state.restored else ""
    return f"{done}{earlier}"


def _failures(state: SearchState) -> str:
    if not state.failures:
        return "no failures"
    return "failed: " + ", ".join(f"{n} {kind}" for kind, n in sorted(state.failures.items()))


def _share_done(state: SearchState) -> float:
    shares = [0.0]
    if state.limit.trials:
        shares.append(state.trials / state.limit.trials)
    if state.limit.seconds:
        shares.append(state.elapsed / state.limit.seconds)
    return min(1.0, max(shares))


def _time_left(state: SearchState) -> str:
    """Until the budget is spent, or until the trials are at the pace so far."""
    lefts = []
    if state.limit.seconds is not None:
        lefts.append(state.limit.seconds - state.elapsed)
    if state.limit.trials is not None and state.trials:
        pace = state.elapsed / state.trials
        lefts.append((state.limit.trials - state.trials) * pace)
    return format_duration(max(0.0, min(lefts))) if lefts else "?"
