"""Building the kernels of records again, many at once, in worker processes that may die of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...database import Entry, StaleRecordError, TargetKey, apply_trace
from ...database.judging import malformation
from ...database.plausibility import contradiction
from ...database.scratch import ScratchFolder
from ...workloads import PackedShape, PrefillShape
from ...workloads.sizes import measured_sizes
from ..measuring.worker import Outcome
from ..measuring.workers import call_all
from .build import build_library
from .finishing import finished
from .registration import register
from .replaying import origin_of, record_of_today, replay, replay_record

_TIMEOUT = 240.0
# Linking knows the machine at hand alone; an archive of objects can be made for any target.
_LIBRARY, _ARCHIVE = ".so", ".tar"

#: A record and whose it is.
Record = tuple[TargetKey, Entry]
#: Runs in a worker: builds a record's kernel at a path, and returns the record as built.
Rebuild = Callable[[TargetKey, Entry, str], Entry]


@dataclass(frozen=True)
class Rebuilt:
    """How the rebuild of a record ended.

    Parameters
    ----------
    key : TargetKey
        Whose record it is.
    before, entry : Entry
        The record as it was, and as it was built.
    path : str
        Of the library, if there is one.
    failure : str
        What went wrong; empty for a success.
    """

    key: TargetKey
    before: Entry
    entry: Entry
    path: str
    failure: str = ""


def rebuild_records(records: Sequence[Record]) -> list[Rebuilt]:
    """Rebuild records in parallel, each for its own target, which may be another machine's."""
    with ScratchFolder() as folder:
        return _rebuild_all(rebuild, records, folder, _ARCHIVE)


def rebuild_here(how: Rebuild, records: Sequence[Record], folder: Path) -> list[Rebuilt]:
    """Rebuild records of this machine in parallel, as libraries in ``folder`` that can be run.

    Parameters
    ----------
    how : Callable
        :func:`rebuild`, or :func:`rebuild_on_today` for records of another TVM version.
    """
    return _rebuild_all(how, records, folder, _LIBRARY)


def rebuild(key: TargetKey, entry: Entry, path: str) -> Entry:
    """Replay a record as a build does, and compile it; runs in a worker.

    Raises
    ------
    StaleRecordError
        If it no longer replays.
    """
    from tvm.target import Target

    _refuse_malformed(entry)
    build_library(replay_record(entry, _sizes(entry)), Target(entry.target_json), path)
    return entry


def rebuild_on_today(key: TargetKey, entry: Entry, path: str) -> Entry:
    """Put a record's trace on the description of today, and compile it; runs in a worker.

    Returns
    -------
    Entry
        As this version of TVM writes it, with its old times.

    Raises
    ------
    StaleRecordError
        If its design space is unknown. What TVM raises is passed on.
    """
    from tvm.target import Target

    target = Target(entry.target_json)
    space, spec, _, variant = origin_of(entry)
    replayed = replay(space, spec, _sizes(entry), variant, entry.trace)
    build_library(replayed.module, target, path)
    return replayed.entry(entry.run_secs, target, entry.provenance)


def _sizes(entry: Entry) -> PrefillShape | PackedShape:
    """Of the kernel that a record's times are of."""
    _, spec, shape, _ = origin_of(entry)
    return measured_sizes(spec, shape)


def records_of_today(records: Sequence[Record]) -> list[Entry | None]:
    """Records as this version writes them, with their times, in parallel; nothing is compiled.

    Returns
    -------
    list of Entry or None
        Nothing for a record whose description has changed, that does not replay, or whose times
        cannot be of one measurement.
    """
    return [outcome.value for outcome in call_all(_of_today, records, _TIMEOUT)]


def _of_today(key: TargetKey, entry: Entry) -> Entry:
    """One of :func:`records_of_today`; runs in a worker."""
    _refuse_malformed(entry)
    if reason := contradiction(entry):
        raise StaleRecordError(f"{entry.place}: record {entry.record_id}: {reason}; {entry.mend}")
    return record_of_today(entry)


def rebuild_as_recorded(key: TargetKey, entry: Entry, path: str) -> Entry:
    """Put a record's trace on the description that the record holds, and compile it; in a worker.

    Other than :func:`rebuild`, it takes a description that has changed since.

    Raises
    ------
    StaleRecordError
        If the record is malformed. What TVM raises is passed on.
    """
    from tvm.target import Target

    module = finished(_on_own_description(entry).mod)
    build_library(module, Target(entry.target_json), path)
    return entry


def trace_as_python(entry: Entry) -> list[str]:
    """The trace of a record on its own description, one statement each; runs in a worker."""
    trace = _on_own_description(entry).trace
    assert trace is not None
    return [str(line) for line in trace.as_python()]


def _on_own_description(entry: Entry) -> Any:
    """The schedule of a record, on the description that it holds."""
    from tvm.s_tir import meta_schedule as ms

    _refuse_malformed(entry)
    register(asdict(entry.provenance))
    workload = ms.database.Workload.from_json(list(entry.workload_line))
    return apply_trace(entry.trace, workload.mod)


def _refuse_malformed(entry: Entry) -> None:
    """A folder may have come through git: a description that holds machine code is never loaded."""
    if reason := malformation(entry):
        raise StaleRecordError(f"{entry.place}: record {entry.record_id}: {reason}; {entry.mend}")


def _rebuild_all(
    how: Rebuild, records: Sequence[Record], folder: Path, suffix: str
) -> list[Rebuilt]:
    calls = [
        (key, entry, str(folder / f"{number}{suffix}"))
        for number, (key, entry) in enumerate(records)
    ]
    outcomes = call_all(how, calls, _TIMEOUT)
    for unwritable in filter(None, (each.unwritable for each in outcomes)):
        raise unwritable  # a full disk says nothing of the records
    return [
        Rebuilt(key, entry, outcome.value or entry, path, _failure(outcome))
        for (key, entry, path), outcome in zip(calls, outcomes, strict=True)
    ]


def _failure(outcome: Outcome) -> str:
    return "" if outcome.status == "ok" else f"{outcome.status}: {outcome.detail}"
