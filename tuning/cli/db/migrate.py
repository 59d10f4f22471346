"""``prefilltune db migrate``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from ....database import (
    NotWritableError,
    RecordStore,
    read_other_version,
    rescued_records,
    target_keys,
    union,
)
from ...errors import InvalidOptionError
from ...measuring.tvm_import import import_tvm_without_torch
from .answer import Answer
from .data import bad_line_data, failure_data, failures_data, measured_data
from .opened import OwnOptions
from .text import bad_lines_text, count, failures_text, measured_table


def migrate(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Of another TVM version.")],
    where: OwnOptions,
) -> Iterator[Answer]:
    """Take over the records that still replay and are right, timed again, and list the rest."""
    root = where.root
    if root.resolve() == source.resolve():
        raise InvalidOptionError(
            f"{source} is the source, which stays as it is; name another --database"
        )
    import_tvm_without_torch()
    from ...building.rebuilding import rebuild_on_today
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
    measured, others = measure_records(rebuild_on_today, records)
    moved = [each for each in measured if each.after]
    for key in dict.fromkeys(each.key for each in moved):
        new = [each.after for each in moved if each.after and each.key == key]
        try:
            stores[key].change(lambda present, new=new: union(present, new).values())
        except NotWritableError as error:
            raise rescued_records(error, {key: new}, root) from error
    left = failures_data(measured)
    left += [failure_data(*record, "of another machine; migrate there") for record in others]
    bad = [bad_line_data(source / str(each.key), line) for each in read for line in each.bad_lines]
    yield Answer(
        {
            "tvm": {str(each.key): each.tvm for each in read},
            "moved": [measured_data(each) for each in moved],
            "left": left,
            "bad_lines": bad,
        },
        [
            *(
                f"{source / str(each.key)}: {count(len(each.entries), 'record')} of TVM {each.tvm}"
                for each in read
            ),
            measured_table(f"moved {count(len(moved), 'record')} to {root}", moved),
            f"left {count(len(left), 'record')}",
            *failures_text(left),
            *bad_lines_text(bad),
        ],
        is_bad=bool(left or bad),
    )
