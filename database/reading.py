"""Read the three files of a target, whatever state they are in.

A line is taken only when ``provenance.json`` notes its digest, and a record only when its
provenance is there too. So nothing that was torn or edited reaches TVM, whose own reader dies of
some such lines.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from .entry import BadLine, Entry
from .errors import MalformedProvenanceError, VersionMismatchError
from .provenance import (
    SCHEMA_VERSION,
    Provenance,
    check_file,
    digest,
    record_id,
    running_tvm_version,
)
from .target_key import TargetKey

WORKLOADS, RECORDS, PROVENANCE = "workloads.json", "records.json", "provenance.json"


@dataclass(frozen=True)
class Workload:
    """An intact line of ``workloads.json``: line index from 0, structural hash, serialised text."""

    index: int
    hash: str
    text: str


@dataclass(frozen=True)
class Contents:
    """What the three files hold.

    Parameters
    ----------
    entries : dict of str to Entry
        Intact records by id, in the order of the file.
    problems : list of BadLine
        What was skipped, or found in spite of a wrong workload index.
    workloads : dict of str to Workload
        Intact workloads by structural hash.
    workload_lines : int
        Lines of ``workloads.json``, bad ones included.
    provenance : dict
        ``provenance.json`` as it is.
    """

    entries: dict[str, Entry]
    problems: list[BadLine]
    workloads: dict[str, Workload]
    workload_lines: int
    provenance: dict[str, Any]


def read_folder(folder: Path, key: TargetKey) -> Contents:
    """Read the records of ``key`` in ``folder``; missing files count as empty.

    Raises
    ------
    VersionMismatchError
        If the traces come from another minor version of TVM.
    MalformedProvenanceError
        If ``provenance.json`` cannot be read, or is of another schema or target.
    """
    # A writer changes workloads, provenance, records, in this order; reading the other way round
    # finds all that a record needs, without a lock.
    record_lines = _lines(folder / RECORDS)
    provenance = _read_provenance(folder / PROVENANCE, key)
    workload_lines = _lines(folder / WORKLOADS)

    digests = frozenset(provenance["digests"])
    problems: list[BadLine] = []

    def report(file: str, line: int, error: Exception, raw: bytes) -> None:
        problems.append(BadLine(file, line, str(error), raw.decode(errors="surrogateescape")))

    workloads: dict[str, Workload] = {}
    for index, raw in enumerate(workload_lines):
        try:
            workload = _parse_workload(index, raw, digests)
            workloads.setdefault(workload.hash, workload)
        except (ValueError, RecursionError) as error:
            report(WORKLOADS, index + 1, error, raw)

    known: dict[str, Provenance] = {}
    for id_, data in provenance["records"].items():
        try:
            known[id_] = Provenance.from_json(data, f"record {id_}")
        except MalformedProvenanceError as error:
            line = _line_of(folder / PROVENANCE, f'"{id_}"')
            report(PROVENANCE, line, error, json.dumps({id_: data}).encode())

    entries: dict[str, Entry] = {}
    for number, raw in enumerate(record_lines, 1):
        try:
            index, entry = _parse_record(raw, digests, workloads, known)
            if entry.record_id in entries:
                raise ValueError(f"record {entry.record_id} is here twice")
            entries[entry.record_id] = replace(entry, origin=str(folder / RECORDS))
            right = workloads[entry.workload_line[0]].index
            if index != right:
                raise ValueError(
                    f"workload index {index} should be {right}; the record was found by its id"
                )
        except (ValueError, RecursionError) as error:
            report(RECORDS, number, error, raw)
    return Contents(entries, problems, workloads, len(workload_lines), provenance)


def _lines(path: Path) -> list[bytes]:
    try:
        lines = path.read_bytes().split(b"\n")
    except (FileNotFoundError, NotADirectoryError):
        return []
    return lines if lines[-1] else lines[:-1]


def _line_of(path: Path, text: str) -> int:
    content = path.read_text(encoding="utf-8")
    return content.count("\n", 0, max(content.find(text), 0)) + 1


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _loads(raw: bytes) -> Any:
    return json.loads(raw.decode(), parse_constant=_reject_constant)


def _require_digest(value: Any, digests: frozenset[str]) -> None:
    if digest(value) not in digests:
        raise ValueError("its digest is not in the provenance: it was cut, edited or added by hand")


def _parse_workload(index: int, raw: bytes, digests: frozenset[str]) -> Workload:
    match _loads(raw):
        case [str(hash_), str(text)]:
            _require_digest([hash_, text], digests)
            return Workload(index, hash_, text)
    raise ValueError("not a workload: expected [hash, text]")


def _parse_record(
    raw: bytes,
    digests: frozenset[str],
    workloads: dict[str, Workload],
    known: dict[str, Provenance],
) -> tuple[int, Entry]:
    """The line's workload index and its entry."""
    match _loads(raw):
        case [
            int(index),
            [list(trace), list(secs), (dict() | None) as target, (list() | None) as args],
        ]:
            _require_digest([trace, secs, target, args], digests)
        case _:
            raise ValueError("not a record: expected [index, [trace, secs, target, args]]")
    # The index is only where to look first: a crash between two renames or a merge of two
    # branches shifts indices; the id still tells the right workload.
    for workload in sorted(workloads.values(), key=lambda workload: workload.index != index):
        id_ = record_id(workload.hash, trace)
        if id_ in known:
            line = (workload.hash, workload.text)
            return index, Entry(id_, line, trace, tuple(secs), target, args, known[id_])
    raise ValueError("its workload or its provenance is lost")


def _read_provenance(path: Path, key: TargetKey) -> dict[str, Any]:
    running = running_tvm_version()
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        frame = {"schema": SCHEMA_VERSION, "target": str(key), "tvm": running}
        return frame | {"digests": [], "records": {}}
    try:
        data = _loads(raw)
    except (ValueError, RecursionError) as error:
        raise MalformedProvenanceError(
            f"{path} is not JSON: {error}; restore it from git or tune again"
        ) from error
    check_file(data, str(path))
    if data["target"] != str(key):
        raise MalformedProvenanceError(
            f"{path} is of target {data['target']!r}; expected {str(key)!r}: a folder is named "
            "after its target, rename it back"
        )
    if data["tvm"].split(".")[:2] != running.split(".")[:2]:
        raise VersionMismatchError(
            f"{path} holds traces of TVM {data['tvm']}; TVM {running} is running and cannot be "
            "trusted with them: install that version, or tune again into another database"
        )
    return data
