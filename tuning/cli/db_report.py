"""What ``prefilltune db`` prints: tables for people, JSON for machines."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from ...database import BadLine, Change, Entry, Merge, TargetKey

if TYPE_CHECKING:
    from ..building.rebuilding import Rebuilt
    from ..search.remeasuring import Remeasured

_WIDTH_OF_A_PIPE = 200
_TIMES = ("median ms", "spread", "error")

# A pipe has no width; rich would fold every cell to fit 80 columns.
_PIPED = not sys.stdout.isatty() and "COLUMNS" not in os.environ
_console = Console(markup=False, highlight=False, width=_WIDTH_OF_A_PIPE if _PIPED else None)


def say(text: str) -> None:
    """Print a line; what a record says of itself may hold anything, escape sequences included."""
    _console.print(_printable(text), soft_wrap=True)


def say_json(data: Any) -> None:
    """Print one JSON document."""
    print(json.dumps(data, indent=1))


def count(number: int, noun: str) -> str:
    """A number and its noun.

    >>> count(1, 'record'), count(2, 'record')
    ('1 record', '2 records')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def say_records(title: str, entries: Iterable[Entry], caption: str = "") -> None:
    """A table of records, the fastest of each case first."""
    table = _table(title, ("record", "spec", "shape", "space", "lens"), (*_TIMES, "date"), caption)
    for entry in sorted(entries, key=lambda entry: (entry.group, entry.speed)):
        _add(table, entry.record_id, *entry.group, *_times(entry), entry.provenance.date[:10])
    _say_table(table)


def say_record(key: TargetKey, entry: Entry, details: Mapping[str, Any]) -> None:
    """Everything about one record; ``details`` as :func:`record_details` makes them."""
    table = _table(f"record {entry.record_id}", ("field", "value"))
    _add(table, "file", f"{details['file']}:{details['line']}")
    _add(table, "target", f"{key} {json.dumps(entry.target_json)}")
    for name, value in asdict(entry.provenance).items():
        _add(table, name, value if isinstance(value, str) else json.dumps(value))
    _add(table, "times, ms", "  ".join(f"{secs * 1e3:.4f}" for secs in entry.run_secs))
    for each in details["decisions"]:
        _add(
            table,
            "decision",
            f"{', '.join(each['outputs'])} = {each['instruction']}: {json.dumps(each['decision'])}",
        )
    _say_table(table)
    for line in details["python"]:
        say(line)
    if details["refusal"]:
        say(f"TVM does not replay the trace: {details['refusal']}")


def record_details(key: TargetKey, entry: Entry, python: list[str], refusal: str) -> dict[str, Any]:
    """Everything about one record, as JSON."""
    instructions, decisions = entry.trace
    return {
        **record_json(key, entry),
        "file": entry.origin,
        "line": _line_of(entry),
        "run_secs": entry.run_secs,
        "target_json": entry.target_json,
        "decisions": [
            {
                "instruction": str(instructions[index][0]),
                "outputs": [str(output) for output in instructions[index][3]],
                "decision": decision,
            }
            for index, decision in decisions
        ],
        "trace": entry.trace,
        "python": python,
        "refusal": refusal,
    }


def record_json(key: TargetKey, entry: Entry) -> dict[str, Any]:
    """A record's id, target and provenance."""
    return {"record": entry.record_id, "target": str(key), **asdict(entry.provenance)}


def bad_line_json(folder: Path, line: BadLine) -> dict[str, Any]:
    """Where a bad line is, and why it is one."""
    return {"file": str(folder / line.file), "line": line.line, "reason": line.reason}


def bad_folder_json(folder: Path, error: str) -> dict[str, Any]:
    """The same for a folder that cannot be opened."""
    return {"file": str(folder), "line": None, "reason": error}


def say_bad_lines(lines: Iterable[Mapping[str, Any]]) -> None:
    """One line each, as compilers write them."""
    for each in lines:
        number = "" if each["line"] is None else f":{each['line']}"
        say(f"{each['file']}{number}: {each['reason']}")


def say_merges(merges: Sequence[Merge], output: Path) -> None:
    """What came into a database, and what did not."""
    for each in merges:
        say(
            f"{output / str(each.key)}: added {count(len(each.added), 'record')}, updated "
            f"{len(each.updated)}, refused {len(each.refused)}; "
            f"{count(len(each.bad_lines), 'bad line')} skipped"
        )
        for id_, reason in each.refused.items():
            say(f"  refused {id_}: {reason}")
        say_bad_lines(bad_line_json(*line) for line in each.bad_lines)


def merge_json(merge: Merge) -> dict[str, Any]:
    """The same as JSON."""
    return {
        "target": str(merge.key),
        "added": [entry.record_id for entry in merge.added],
        "updated": [entry.record_id for entry in merge.updated],
        "refused": dict(merge.refused),
        "bad_lines": [bad_line_json(*line) for line in merge.bad_lines],
    }


def say_changes(title: str, changes: Sequence[tuple[TargetKey, Change]]) -> None:
    """A table of differences."""
    table = _table(
        f"{title}: {count(len(changes), 'difference')}",
        ("change", "record", "target", "spec", "shape", "space", "lens"),
        ("before, ms", "after, ms", "ratio"),
    )
    for key, change in changes:
        old, new = change.before, change.after
        entry = new or old
        assert entry is not None
        times = ("" if each is None else _times(each)[0] for each in (old, new))
        ratio = "" if change.ratio is None else f"{change.ratio:.2f}"
        _add(table, change.kind, entry.record_id, str(key), *entry.group, *times, ratio)
    _say_table(table)


def change_json(key: TargetKey, change: Change) -> dict[str, Any]:
    """A difference."""
    return {
        "change": change.kind,
        "target": str(key),
        "before": None if change.before is None else record_json(key, change.before),
        "after": None if change.after is None else record_json(key, change.after),
        "ratio": change.ratio,
    }


def say_measured(title: str, measured: Sequence[Remeasured]) -> None:
    """Times of today beside those of the records."""
    table = _table(
        title,
        ("record", "spec", "shape", "space", "lens"),
        ("recorded ms", "spread", "today ms", "spread", "ratio", "verdict"),
    )
    for each in measured:
        if each.after is None:
            continue
        old, new = each.before, each.after
        verdict = "drifted" if each.drifted else "within spread"
        _add(
            table, old.record_id, *old.group, *_times(old)[:2], *_times(new)[:2],
            f"{each.ratio:.2f}", verdict,
        )  # fmt: skip
    _say_table(table)


def measured_json(measured: Remeasured) -> dict[str, Any]:
    """A record measured again."""
    after = measured.after
    return {
        "record": measured.before.record_id,
        "target": str(measured.key),
        "recorded_secs": measured.before.provenance.median_secs,
        "median_secs": None if after is None else after.provenance.median_secs,
        "spread_secs": None if after is None else after.provenance.spread_secs,
        "max_abs_error": None if after is None else after.provenance.max_abs_error,
        "ratio": measured.ratio,
        "drifted": measured.drifted,
        "failure": measured.failure,
    }


def say_failures(failures: Iterable[Mapping[str, str]]) -> None:
    """One line for each record that failed."""
    for each in failures:
        say(f"  {each['record']} of {each['target']}: {' '.join(each['failure'].split())}")


def failure_json(failed: Rebuilt | Remeasured) -> dict[str, str]:
    """Which record failed, and how."""
    return {
        "record": failed.before.record_id, "target": str(failed.key), "failure": failed.failure
    }  # fmt: skip


def _times(entry: Entry) -> tuple[str, str, str]:
    origin = entry.provenance
    spread = origin.spread_secs / origin.median_secs
    return f"{origin.median_secs * 1e3:.4g}", f"{spread:.0%}", f"{origin.max_abs_error:.1e}"


def _line_of(entry: Entry) -> int | None:
    """Of its file, from 1."""
    wanted = json.loads(json.dumps(entry.payload))
    with Path(entry.origin).open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                match json.loads(line):
                    case [_, payload] if payload == wanted:
                        return number
            except (ValueError, RecursionError):
                continue  # a bad line is not the one
    return None


def _table(title: str, left: Sequence[str], right: Sequence[str] = (), caption: str = "") -> Table:
    table = Table(
        title=_printable(title), caption=_printable(caption) or None,
        title_justify="left", caption_justify="left",
    )  # fmt: skip
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right", overflow="fold")
    return table


def _add(table: Table, *cells: str) -> None:
    table.add_row(*map(_printable, cells))


def _say_table(table: Table) -> None:
    """An empty one is its title alone."""
    if table.row_count:
        _console.print(table)
    else:
        _console.print(table.title, soft_wrap=True)


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() or each == "\n" else "\ufffd" for each in text)
