"""``prefilltune db list | show | diff``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from ....database import Entry, diff, diff_best
from ...counting import count
from ...measuring.tvm_import import import_tvm_without_torch
from .answer import Answer
from .data import bad_line_data, change_data, record_data, record_details
from .opened import (
    ReadOptions,
    TargetOption,
    all_usable,
    database_option,
    find_record,
    open_all,
)
from .text import changes_table, record_text, records_table

_TRACE_TIMEOUT = 120.0


def list_records(where: ReadOptions) -> Iterator[Answer]:
    """Every record of every target."""
    opened = list(where.open_all())
    targets = [
        {
            "folder": str(each.folder),
            "target": str(each.key),
            "records": [record_data(each.key, entry) for entry in each.entries],
            "bad_lines": [bad_line_data(each.folder, line) for line in each.problems],
            "error": each.error,
        }
        for each in opened
    ]
    text = []
    for each in opened:
        if each.error:
            text.append(f"{each.folder}: {each.error}")
            continue
        title = f"{each.folder}: {count(len(each.entries), 'record')}"
        bad = count(len(each.problems), "bad line")
        verify = f"`prefilltune db verify {database_option(each.root)}`"
        caption = f"{bad}: {verify} names them" if each.problems else ""
        text.append(records_table(title, each.entries, caption))
    if not text:
        text.append(f"no records in {' or '.join(map(str, where.roots))}")
    yield Answer({"targets": targets}, text)


def show(
    record: Annotated[str, typer.Argument(metavar="ID", help="A record's id, or its start.")],
    where: ReadOptions,
) -> Iterator[Answer]:
    """Everything about one record: its place, provenance, decisions, and its trace as Python."""
    key, entry = find_record(record, where.open_all(), where.database)
    details = record_details(key, entry, *_python(entry))
    yield Answer(details, record_text(key, entry, details))


def diff_databases(
    one: Annotated[Path, typer.Argument(metavar="A", help="A database.")],
    other: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    target: TargetOption = "",
) -> Iterator[Answer]:
    """What B has more or less than A or measured anew, and where its best is another."""
    before, after = (
        {each.key: each.entries for each in all_usable(open_all([root], target))}
        for root in (one, other)
    )
    keys = sorted({*before, *after}, key=str)
    sides = [(key, before.get(key, ()), after.get(key, ())) for key in keys]
    records = [(key, each) for key, old, new in sides for each in diff(old, new)]
    best = [(key, each) for key, old, new in sides for each in diff_best(old, new)]
    yield Answer(
        {
            "records": [change_data(*each) for each in records],
            "best": [change_data(*each) for each in best],
        },
        [changes_table("records", records), changes_table("fastest of each case", best)],
    )


def _python(entry: Entry) -> tuple[list[str], str]:
    """The trace as Python, or why TVM refuses it; in a child, for it may kill the process."""
    import_tvm_without_torch()
    from ...building.rebuilding import trace_as_python
    from ...measuring.worker import Worker

    with Worker() as worker:
        outcome = worker.call(trace_as_python, entry, timeout=_TRACE_TIMEOUT)
    if outcome.status == "ok":
        return outcome.value, ""
    return [], f"{outcome.status}: {outcome.detail}"
