"""What the commands of the database say to people: lines and tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from ....database import Change, Entry, Merge, TargetKey
from ...counting import count
from .data import bad_line_data

if TYPE_CHECKING:
    from ...search.remeasuring import Remeasured

_CASE = ("spec", "shape", "space", "lens")
_TIMES = ("median ms", "spread", "error")


def printable(text: str) -> str:
    """What a record says of itself may hold anything, escape sequences included.

    >>> printable("full\\x1b[2J")
    'full\ufffd[2J'
    """
    return "".join(each if each.isprintable() or each == "\n" else "\ufffd" for each in text)


def records_table(title: str, entries: Iterable[Entry], caption: str = "") -> Table:
    """Records, the fastest of each case first."""
    table = _table(title, ("record", *_CASE), (*_TIMES, "date"), caption)
    for entry in sorted(entries, key=lambda entry: (entry.group, entry.speed)):
        _add(table, entry.record_id, *entry.group, *_times(entry), entry.provenance.date[:10])
    return table


def record_text(key: TargetKey, entry: Entry, details: Mapping[str, Any]) -> list[str | Table]:
    """Everything about one record; ``details`` as :func:`.data.record_details` makes them."""
    table = _table(f"record {entry.record_id}", ("field", "value"))
    _add(table, "file", f"{details['file']}:{details['line']}")
    _add(table, "target", f"{key} {json.dumps(entry.target_json)}")
    for name, value in asdict(entry.provenance).items():
        _add(table, name, value if isinstance(value, str) else json.dumps(value))
    _add(table, "times, ms", "  ".join(f"{secs * 1e3:.4f}" for secs in entry.run_secs))
    for each in details["decisions"]:
        outputs, decision = ", ".join(each["outputs"]), json.dumps(each["decision"])
        _add(table, "decision", f"{outputs} = {each['instruction']}: {decision}")
    refusal = details["refusal"]
    return [
        table,
        *details["python"],
        *([f"TVM does not replay the trace: {refusal}"] if refusal else []),
    ]


def bad_lines_text(lines: Iterable[Mapping[str, Any]]) -> list[str]:
    """One line each, as compilers write them."""
    return [
        f"{each['file']}{'' if each['line'] is None else ':' + str(each['line'])}: {each['reason']}"
        for each in lines
    ]


def merge_text(merge: Merge, output: Path) -> list[str]:
    """What came into a target of a database, and what did not."""
    return [
        f"{output / str(merge.key)}: added {count(len(merge.added), 'record')}, updated "
        f"{len(merge.updated)}, refused {len(merge.refused)}; "
        f"{count(len(merge.bad_lines), 'bad line')} skipped",
        *(f"  refused {id_}: {reason}" for id_, reason in merge.refused.items()),
        *bad_lines_text(bad_line_data(*line) for line in merge.bad_lines),
    ]


def changes_table(title: str, changes: Sequence[tuple[TargetKey, Change]]) -> Table:
    """Differences of two databases."""
    table = _table(
        f"{title}: {count(len(changes), 'difference')}",
        ("change", "record", "target", *_CASE),
        ("before, ms", "after, ms", "ratio"),
    )
    for key, change in changes:
        old, new = change.before, change.after
        entry = new or old
        assert entry is not None
        times = ("" if each is None else _times(each)[0] for each in (old, new))
        ratio = "" if change.ratio is None else f"{change.ratio:.2f}"
        _add(table, change.kind, entry.record_id, str(key), *entry.group, *times, ratio)
    return table


def measured_table(title: str, measured: Sequence[Remeasured]) -> Table:
    """Times of today beside those of the records; without those that failed."""
    table = _table(
        title,
        ("record", *_CASE),
        ("recorded ms", "spread", "today ms", "spread", "ratio", "verdict"),
    )
    for each in measured:
        if each.after is None:
            continue
        old, new = each.before, each.after
        verdict = "drifted" if each.drifted else "within spread"
        times = (*_times(old)[:2], *_times(new)[:2])
        _add(table, old.record_id, *old.group, *times, f"{each.ratio:.2f}", verdict)
    return table


def failures_text(failures: Iterable[Mapping[str, str]]) -> list[str]:
    """One line for each record that failed."""
    return [
        f"  {each['record']} of {each['target']}: {' '.join(each['failure'].split())}"
        for each in failures
    ]


def _times(entry: Entry) -> tuple[str, str, str]:
    origin = entry.provenance
    spread = origin.spread_secs / origin.median_secs
    return f"{origin.median_secs * 1e3:.4g}", f"{spread:.0%}", f"{origin.max_abs_error:.1e}"


def _table(title: str, left: Sequence[str], right: Sequence[str] = (), caption: str = "") -> Table:
    table = Table(
        title=printable(title), caption=printable(caption) or None,
        title_justify="left", caption_justify="left",
    )  # fmt: skip
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right", overflow="fold")
    return table


def _add(table: Table, *cells: str) -> None:
    table.add_row(*map(printable, cells))
