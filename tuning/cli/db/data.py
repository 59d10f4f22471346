"""What the commands of the database say to machines: a fact has the same fields in all of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....database import BadLine, Change, Entry, Merge, TargetKey

if TYPE_CHECKING:
    from ...building.rebuilding import Rebuilt
    from ...search.remeasuring import Remeasured


def record_data(key: TargetKey, entry: Entry) -> dict[str, Any]:
    """A record's id, target and provenance."""
    return {"record": entry.record_id, "target": str(key), **asdict(entry.provenance)}


def record_details(
    key: TargetKey, entry: Entry, python: Sequence[str], refusal: str
) -> dict[str, Any]:
    """Everything about one record.

    Parameters
    ----------
    python : Sequence[str]
        The lines of its trace as Python.
    refusal : str
        Why there are none; empty where there are.
    """
    instructions, decisions = entry.trace
    return {
        **record_data(key, entry),
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


def bad_line_data(folder: Path, line: BadLine) -> dict[str, Any]:
    """Where a bad line is, and why it is one."""
    return {"file": str(folder / line.file), "line": line.line, "reason": line.reason}


def bad_folder_data(folder: Path, error: str) -> dict[str, Any]:
    """A folder that cannot be opened, in the fields of a bad line."""
    return {"file": str(folder), "line": None, "reason": error}


def merge_data(merge: Merge) -> dict[str, Any]:
    """What came into a target of a database, and what did not."""
    return {
        "target": str(merge.key),
        "added": [entry.record_id for entry in merge.added],
        "updated": [entry.record_id for entry in merge.updated],
        "refused": dict(merge.refused),
        "bad_lines": [bad_line_data(*line) for line in merge.bad_lines],
    }


def change_data(key: TargetKey, change: Change) -> dict[str, Any]:
    """A difference of two databases."""
    return {
        "change": change.kind,
        "target": str(key),
        "before": None if change.before is None else record_data(key, change.before),
        "after": None if change.after is None else record_data(key, change.after),
        "ratio": change.ratio,
    }


def measured_data(measured: Remeasured) -> dict[str, Any]:
    """A record and its times of today."""
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


def failure_data(key: TargetKey, entry: Entry, failure: str) -> dict[str, str]:
    """Which record failed, and how."""
    return {"record": entry.record_id, "target": str(key), "failure": failure}


def failures_data(tried: Sequence[Rebuilt] | Sequence[Remeasured]) -> list[dict[str, str]]:
    """Those of the records that failed."""
    return [failure_data(each.key, each.before, each.failure) for each in tried if each.failure]


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
