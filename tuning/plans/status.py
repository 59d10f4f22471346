"""How tuning plans stand, as tables."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.table import Column, Table

from ..duration import format_duration
from ..errors import NothingFoundError
from .ledger import Ledger, is_running, ledger_path, read_ledger


def plan_tables(root: Path, name: str = "") -> list[Table]:
    """A table for each plan of a database, or for one of them.

    Raises
    ------
    NothingFoundError
        If there is no such plan.
    """
    found = [ledger_path(root, name)] if name else sorted((root / "plans").glob("*.json"))
    paths = [each for each in found if each.is_file()]
    if not paths:
        raise NothingFoundError(
            f"no plan{f' {name!r}' if name else ''} has been run on {root}; start one; run, with "
            f"its file: prefilltune plan run FILE --database {shlex.quote(str(root))}"
        )
    return [_table(read_ledger(path)) for path in paths]


def _table(ledger: Ledger) -> Table:
    spent = f"{format_duration(ledger.spent)} of {format_duration(ledger.seconds)} spent"
    runs = is_running(ledger)
    running = "running" if runs else "not running"
    faults = ", ".join(f"{count} {kind}" for kind, count in sorted(ledger.faults.items()))
    table = Table(
        Column("workload", overflow="fold"),
        Column("trials", justify="right"),
        Column("best ms", justify="right"),
        Column("last gain", justify="right"),
        "state",
        title=f"{ledger.path.stem}: {running}, {spent}",
        caption=f"faults survived, of devices, builders and searches: {faults}" if faults else None,
        title_justify="left",
        caption_justify="left",
    )
    for name, done in ledger.progress.items():
        best = "" if done.best is None else f"{done.best * 1e3:.4g}"
        gain = f"{done.gain():.1%}" if len(done.slices) > 1 else ""
        table.add_row(name, str(done.trials), best, gain, _state(ledger, name, runs))
    return table


def _state(ledger: Ledger, name: str, runs: bool) -> str:
    if runs and name in ledger.searching:
        return "searching"
    done = ledger.progress[name]
    ended = done.ended(ledger.most_trials)
    if ended:
        return ended
    if ledger.spent >= ledger.seconds:
        return "budget spent"
    return "goes on" if done.slices else "waits"
