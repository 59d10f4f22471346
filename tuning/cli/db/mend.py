"""``prefilltune db repair | prune | remove``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from ....database import Entry, NoRecordError, RecordStore, TargetKey
from ...counting import count
from ...errors import InvalidOptionError
from ...swept import swept_records
from .answer import Answer
from .data import bad_line_data, record_data
from .opened import Opened, OwnOptions, all_usable, list_command
from .text import bad_lines_text, records_table


def repair(where: OwnOptions) -> Iterator[Answer]:
    """Set bad lines aside into records.rejected.json, and link records to their workloads anew."""
    opened = list(where.open_all())
    for each in opened:
        if each.problems:
            RecordStore.open(each.root, each.key).change(lambda entries: entries)
    targets = [
        {
            "target": str(each.key),
            "kept": len(each.entries),
            "repaired": [bad_line_data(each.folder, line) for line in each.problems],
            "error": each.error,
        }
        for each in opened
    ]
    text = [line for each in opened for line in _repaired_text(each)]
    yield Answer({"targets": targets}, text, is_bad=any(each.error for each in opened))


def prune(
    keep: Annotated[
        int, typer.Option("--keep", help="How many of each spec, shape, space and lengths stay.")
    ],
    where: OwnOptions,
) -> Iterator[Answer]:
    """Remove all but the fastest records of each case, and those that a sweep timed."""
    if keep < 1:
        raise InvalidOptionError(f"--keep is {keep}; it must be 1 or more")
    yield _removed([
        (each.key, entry)
        for each in all_usable(where.open_all())
        for entry in RecordStore.open(each.root, each.key).prune(keep, swept_records(each.folder))
    ])  # fmt: skip


def remove(
    records: Annotated[list[str], typer.Argument(metavar="ID...", help="Whole ids.")],
    where: OwnOptions,
) -> Iterator[Answer]:
    """Remove records by their ids, such as those that no longer replay."""
    opened = all_usable(where.open_all())
    wanted = set(records)
    removed = [
        (each.key, entry) for each in opened for entry in each.entries if entry.record_id in wanted
    ]
    if missing := wanted - {entry.record_id for _, entry in removed}:
        raise NoRecordError(
            f"{where.root} has no record {', '.join(sorted(missing))}; nothing was removed: "
            f"{list_command(where.root)} names those that it has"
        )
    for each in opened:
        if any(key == each.key for key, _ in removed):
            RecordStore.open(each.root, each.key).change(
                lambda kept: [entry for entry in kept if entry.record_id not in wanted]
            )
    yield _removed(removed)


def _removed(records: Sequence[tuple[TargetKey, Entry]]) -> Answer:
    title = f"removed {count(len(records), 'record')}"
    return Answer(
        {"removed": [record_data(*each) for each in records]},
        [records_table(title, [entry for _, entry in records])],
    )


def _repaired_text(opened: Opened) -> list[str]:
    if opened.error:
        return [f"{opened.folder}: {opened.error}"]
    kept = count(len(opened.entries), "record")
    if not opened.problems:
        return [f"{opened.folder}: {kept}, nothing to repair"]
    return [
        f"{opened.folder}: repaired {count(len(opened.problems), 'line')}, kept {kept}",
        *bad_lines_text(bad_line_data(opened.folder, line) for line in opened.problems),
    ]
