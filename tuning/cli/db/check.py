"""``prefilltune db verify``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from ....database import Entry, TargetKey
from ...counting import count
from ...measuring.tvm_import import import_tvm_without_torch
from .answer import Answer
from .data import bad_folder_data, bad_line_data, failures_data, measured_data
from .opened import Opened, ReadOptions
from .text import bad_lines_text, failures_text, measured_table

if TYPE_CHECKING:
    from ...search.remeasuring import Remeasured


def verify(
    where: ReadOptions,
    replay: Annotated[
        bool, typer.Option("--replay", help="Rebuild every record, for its own target.")
    ] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Check and time the records of this machine again.")
    ] = False,
) -> Iterator[Answer]:
    """Read every line and name the bad ones; rebuild and time the records on request.

    A record that drifted is told of, and is no failure.
    """
    opened = list(where.open_all())
    records = [(each.key, entry) for each in opened for entry in each.entries]
    yield _check_lines(opened)
    if replay:
        yield _check_replay(records)
    if measure:
        yield _check_times(records)


def _check_lines(opened: Sequence[Opened]) -> Answer:
    bad = [bad_line_data(each.folder, line) for each in opened for line in each.problems]
    bad += [bad_folder_data(each.folder, each.error) for each in opened if each.error]
    records = sum(len(each.entries) for each in opened)
    total = (
        f"read {count(records, 'record')} in {count(len(opened), 'folder')}: "
        f"{count(len(bad), 'bad line')}"
    )
    data = {"records": records, "bad_lines": bad}
    return Answer(data, [*bad_lines_text(bad), total], is_bad=bool(bad))


def _check_replay(records: Sequence[tuple[TargetKey, Entry]]) -> Answer:
    import_tvm_without_torch()
    from ...building.rebuilding import rebuild_records

    rebuilt = rebuild_records(records)
    failed = failures_data(rebuilt)
    number = len(rebuilt) - len(failed)
    total = f"rebuilt {number} of {count(len(records), 'record')}"
    data = {"replay": {"rebuilt": number, "failed": failed}}
    return Answer(data, [total, *failures_text(failed)], is_bad=bool(failed))


def _with_mend(each: Remeasured) -> Remeasured:
    return replace(each, failure=f"{each.failure}; {each.before.mend}") if each.is_wrong else each


def _check_times(records: Sequence[tuple[TargetKey, Entry]]) -> Answer:
    import_tvm_without_torch()
    from ...building.rebuilding import rebuild
    from ...search.remeasuring import measure_records

    measured, unmeasured = measure_records(rebuild, records)
    measured = [_with_mend(each) for each in measured]
    failed = failures_data(measured)
    drifted = sum(each.drifted for each in measured)
    number = count(len(measured) - len(failed), "record")
    table = measured_table(f"measured {number}: {drifted} drifted beyond their spread", measured)
    text = [table, *failures_text(failed)]
    elsewhere, on_files = (len(each) for each in (unmeasured.elsewhere, unmeasured.on_files))
    if elsewhere:
        text.append(f"not measured: {count(elsewhere, 'record')} of other machines")
    if on_files:
        text.append(
            f"not measured: {count(on_files, 'record')} tuned on lengths of a file, which they do "
            "not hold; to time their kernels: prefilltune compare --lens histogram:PATH --database "
            "FOLDER"
        )
    data = {
        "times": [measured_data(each) for each in measured],
        "failed": failed,
        "other_machines": elsewhere,
        "lengths_of_files": on_files,
    }
    return Answer({"measure": data}, text, is_bad=bool(failed))
