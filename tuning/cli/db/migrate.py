"""``prefilltune db migrate``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from ....database import (
    Entry,
    NotWritableError,
    RecordStore,
    read_other_version,
    renamed,
    rescued_records,
    target_keys,
    union,
)
from ....database.writing import write_file
from ...counting import count
from ...errors import InvalidOptionError
from ...measuring.tvm_import import import_tvm_without_torch
from ..compare import CHART_FILE, COMPARISON_FILE
from .answer import Answer
from .data import bad_line_data, failure_data, failures_data, measured_data
from .opened import OwnOptions
from .text import bad_lines_text, failures_text, measured_table


def migrate(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Of an earlier version, or of another TVM.")
    ],
    where: OwnOptions,
) -> Iterator[Answer]:
    """Take over the records that still replay and are right, and list the rest.

    They are timed again, but for those of this TVM whose descriptions still mean the same.
    """
    root = where.root
    if root.resolve() == source.resolve():
        raise InvalidOptionError(
            f"{source} is the source, which stays as it is; name another --database"
        )
    import_tvm_without_torch()
    from ...building.rebuilding import rebuild_on_today, records_of_today
    from ...search.remeasuring import measure_records

    keys = where.keys
    read = [
        read_other_version(source, key)
        for key in target_keys(source)
        if keys is None or key in keys
    ]
    # Opened before hours are spent on what it might not take.
    stores = {each.key: RecordStore.open(root, each.key, create=True) for each in read}
    for store in stores.values():
        store.require_writable()
    records = [(each.key, entry) for each in read for entry in each.entries]
    timed = [(each.key, entry) for each in read if each.keeps_times for entry in each.entries]
    changes = [
        (key, before, after)
        for (key, before), after in zip(timed, records_of_today(timed), strict=True)
        if after
    ]
    for key in dict.fromkeys(key for key, *_ in changes):
        _add(stores[key], [after for of, _, after in changes if of == key], root)
        names = {before.record_id: after.record_id for of, before, after in changes if of == key}
        _copy_renamed(source / str(key), root / str(key), names)
    yield Answer(
        {
            "tvm": {str(each.key): each.tvm for each in read},
            "rewritten": [
                {"target": str(key), "before": before.record_id, "record": after.record_id}
                for key, before, after in changes
            ],
        },
        [
            *(
                f"{source / str(each.key)}: {count(len(each.entries), 'record')} of TVM {each.tvm}"
                for each in read
            ),
            f"rewrote {count(len(changes), 'record')} in {root}, with the times that they had",
        ],
    )
    done = {(key, before.record_id) for key, before, _ in changes}
    to_measure = [(key, entry) for key, entry in records if (key, entry.record_id) not in done]
    measured, unmeasured = measure_records(rebuild_on_today, to_measure)
    moved = [each for each in measured if each.after]
    for key in dict.fromkeys(each.key for each in moved):
        _add(stores[key], [each.after for each in moved if each.after and each.key == key], root)
    left = failures_data(measured)
    left += [
        failure_data(*record, "of another machine; migrate there")
        for record in unmeasured.elsewhere
    ]
    left += [
        failure_data(*record, "tuned on lengths of a file; tune with --lens histogram:PATH")
        for record in unmeasured.on_files
    ]
    bad = [bad_line_data(source / str(each.key), line) for each in read for line in each.bad_lines]
    yield Answer(
        {
            "moved": [measured_data(each) for each in moved],
            "left": left,
            "bad_lines": bad,
        },
        [
            measured_table(f"moved {count(len(moved), 'record')} to {root}", moved),
            f"left {count(len(left), 'record')}",
            *failures_text(left),
            *bad_lines_text(bad),
        ],
        is_bad=bool(left or bad),
    )


def _add(store: RecordStore, entries: Sequence[Entry], root: Path) -> None:
    try:
        store.change(lambda present: union(present, entries).values())
    except NotWritableError as error:
        raise rescued_records(error, {store.key: entries}, root) from error


def _copy_renamed(source: Path, folder: Path, names: Mapping[str, str]) -> None:
    """Copy what was measured of records that keep their times, where there is none of it yet."""
    from ...deployment.sweep_file import SWEEP_FILE

    for name in (SWEEP_FILE, COMPARISON_FILE, CHART_FILE):
        before, after = source / name, folder / name
        if before.is_file() and not after.exists():
            content = before.read_bytes()
            write_file(after, content if name == CHART_FILE else renamed(content, names))
