"""Read the three files of a target, whatever state they are in.

A line is taken only when ``provenance.json`` notes its digest, and a record only when its
provenance is there too. So nothing that was torn or edited reaches TVM, whose own reader dies of
some such lines.

A line is judged as bytes, which is as sure as parsing it: its digest is of the very text that a
store writes. Only one that was written in another way, by TVM for instance, is parsed for it.
"""

from __future__ import annotations

import gc
import hashlib
import json
import shlex
import statistics
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import index
from .contents import (
    FILES,
    PROVENANCE,
    RECORDS,
    WORKLOADS,
    Contents,
    Place,
    RecordLine,
    Source,
    WorkloadLine,
    fields,
    loads,
    stamp_of,
)
from .entry import Head
from .errors import MalformedProvenanceError, VersionMismatchError
from .plausibility import strange_workload
from .provenance import (
    FULL,
    SCHEMA_VERSION,
    Provenance,
    canonical_json,
    check_file,
    digest,
    is_plain_record,
    is_trusted_version,
    running_tvm_version,
    text_digest,
)
from .target_key import TargetKey

_ATTEMPTS = 5  # at three files that belong together, beside a writer
_ALIEN = "its digest is not in the provenance: it was cut, edited or added by hand"


def read_folder(folder: Path, key: TargetKey, *, indexed: bool = False) -> Contents:
    """Read the records of ``key`` in ``folder``; missing files count as empty.

    Parameters
    ----------
    folder : Path
        Of one target.
    key : TargetKey
        Whose.
    indexed : bool
        Believe the index of a large folder where there is one, and else make one. An index is
        never believed for a line: each is judged again when its record is asked for.

    Raises
    ------
    VersionMismatchError
        If the traces come from another minor version of TVM.
    MalformedProvenanceError
        If ``provenance.json`` cannot be read, or is of another schema or target.
    """
    with _collection_paused():
        return _read(folder, key, indexed)


def _read(folder: Path, key: TargetKey, indexed: bool) -> Contents:
    attempts = _ATTEMPTS
    while True:
        # A writer ends with the records; opening them first finds all that a record needs.
        sources = {name: Source(folder / name) for name in reversed(FILES)}
        known = index.load(folder, key, sources) if indexed else None
        contents = known or _scan(folder, key, sources)
        attempts -= 1
        settled = all(source.stamp == stamp_of(folder / name) for name, source in sources.items())
        if settled or not attempts:
            break
    if settled and indexed and known is None:
        index.save(folder, contents)
    return contents


@contextmanager
def _collection_paused() -> Iterator[None]:
    """Keep Python from searching for garbage while a folder is read.

    Reading makes up to a million objects and drops none: each search visits all of them in vain,
    which takes a quarter of the time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _scan(folder: Path, key: TargetKey, sources: dict[str, Source]) -> Contents:
    contents = Contents(key, str(folder / RECORDS), sources)
    frame = _read_provenance(sources[PROVENANCE], folder / PROVENANCE, key)
    contents.provenance = frame["records"]
    contents.digests = frozenset(frame["digests"])
    _scan_workloads(contents)
    _scan_records(contents, _heads(contents))
    return contents


def _scan_workloads(contents: Contents) -> None:
    for number, offset, raw in _numbered(contents.sources[WORKLOADS].lines()):
        contents.workload_lines = number
        try:
            match loads(raw):
                case [str(hash_), str(text)]:
                    f"{hash_}{text}".encode()  # no lone surrogates
                    own = digest([hash_, text])
                case _:
                    raise ValueError("not a workload: expected [hash, text]")
            if own not in contents.digests:
                raise ValueError(_ALIEN)
            line = WorkloadLine(number - 1, Place(offset, len(raw), own))
            contents.workloads.setdefault(hash_, line)
        except (ValueError, RecursionError) as error:
            contents.report(WORKLOADS, number, str(error), raw)


def _heads(contents: Contents) -> dict[str, Head]:
    """What provenance says of each record, by id; unsound provenance is reported."""
    heads: dict[str, Head] = {}
    bad: dict[str, str] = {}
    for id_, data in contents.provenance.items():
        try:
            if not is_plain_record(data):
                Provenance.from_json(data, f"record {id_}")
            head = Head(
                id_, data["spec"], data["shape"], data["space"], data["lens"],
                data["median_secs"], data["spread_secs"],
            )  # fmt: skip
            if reason := strange_workload(head):
                raise MalformedProvenanceError(f"record {id_}: {reason}; tune again")
            heads[id_] = head
        except MalformedProvenanceError as error:
            bad[id_] = str(error)
    for line, (id_, reason) in zip(_lines_of(contents, bad), bad.items(), strict=True):
        text = json.dumps({id_: contents.provenance[id_]})
        contents.report(PROVENANCE, line, reason, text.encode())
    return heads


def _lines_of(contents: Contents, ids: Iterable[str]) -> Iterator[int]:
    """Line numbers at which the provenance of records begins; ``ids`` in the order of the file."""
    content = contents.sources[PROVENANCE].content()
    position, line = 0, 1
    for id_ in ids:
        found = content.find(json.dumps(id_).encode(), position)
        if found >= 0:
            line += content.count(b"\n", position, found)
            position = found
        yield line


def _scan_records(contents: Contents, heads: dict[str, Head]) -> None:
    workload_of = _WorkloadFinder(contents, heads)
    records, workloads, digests = contents.records, contents.workloads, contents.digests
    for number, offset, raw in _numbered(contents.sources[RECORDS].lines()):
        try:
            at, payload = _split(raw)
            own = text_digest(payload)
            ids, hash_ = workload_of(at, *_texts(payload)) if own in digests else ([], "")
            if not ids:
                at, trace, arguments, own = _parse(raw, digests)
                ids, hash_ = workload_of(at, trace, arguments)
            if not ids:
                raise ValueError("its workload or its provenance is lost")
            id_ = ids[0] if len(ids) == 1 else _of_these_times(raw, [heads[each] for each in ids])
            if id_ in records:
                raise ValueError(f"record {id_} is here twice")
            records[id_] = RecordLine(heads[id_], hash_, Place(offset, len(raw), own))
            if at != workloads[hash_].index:
                raise ValueError(
                    f"workload index {at} should be {workloads[hash_].index}; the record was "
                    "found by its id"
                )
        except (ValueError, RecursionError) as error:
            contents.report(RECORDS, number, str(error), raw)


def _of_these_times(raw: bytes, heads: Sequence[Head]) -> str:
    """The id of the record that a line holds, where one schedule was measured on several lengths.

    The lines differ in their times alone, and provenance knows the median of each.
    """
    _, payload = loads(raw)
    median = statistics.median(fields(payload)[1])
    return min(heads, key=lambda head: abs(head.median_secs - median)).record_id


class _WorkloadFinder:
    """Tells a record's id and workload from its trace and its arguments.

    A schedule that was measured on several length distributions has several ids.

    The workload index of a line is only where to look first: a crash between two renames or a
    merge of two branches shifts indices; the id still tells the right workload.
    """

    def __init__(self, contents: Contents, heads: dict[str, Head]) -> None:
        self._heads = heads
        self._prefixes = {hash_: f"[{json.dumps(hash_)},".encode() for hash_ in contents.workloads}
        self._guesses = {line.index: hash_ for hash_, line in contents.workloads.items()}
        lens = sorted({head.lens for head in heads.values()} - {FULL})
        self._ends = [b"]", *(f",{json.dumps(each)}]".encode() for each in lens)]

    def __call__(self, at: int, trace: bytes, arguments: bytes) -> tuple[list[str], str]:
        """Ids and workload hash of the records whose parts have this canonical JSON."""
        guess = self._guesses.get(at)
        if guess is not None and (ids := self._ids(guess, trace, arguments)):
            return ids, guess
        for hash_ in self._prefixes:
            if ids := self._ids(hash_, trace, arguments):
                # Other lines of this index are most likely of the same workload.
                self._guesses[at] = hash_
                return ids, hash_
        return [], ""

    def _ids(self, hash_: str, trace: bytes, arguments: bytes) -> list[str]:
        """Ids of the records of a workload with this trace, one for each length distribution."""
        with_sizes = hashlib.sha256(self._prefixes[hash_] + trace)
        with_open_sizes = with_sizes.copy()
        with_open_sizes.update(b"," + arguments)
        return self._ended(with_open_sizes) or self._ended(with_sizes)

    def _ended(self, begun: Any) -> list[str]:
        found = []
        for end in self._ends:
            whole = begun.copy()
            whole.update(end)
            if (id_ := whole.hexdigest()[:16]) in self._heads:
                found.append(id_)
        return found


def _split(raw: bytes) -> tuple[int, bytes]:
    """Workload index and payload, as a store writes them; for anything else no payload."""
    comma = raw.find(b",", 1, 12)
    number = raw[1:comma]
    if raw[:1] == b"[" and raw[-1:] == b"]" and number.isdigit() and b"%d" % int(number) == number:
        return int(number), raw[comma + 1 : -1]
    return -1, b""


def _texts(payload: bytes) -> tuple[bytes, bytes]:
    """Trace and arguments in a payload that a store wrote: what stands around times and target."""
    end = max(payload.rfind(b"],{"), payload.rfind(b"],null,"))
    return payload[1 : payload.rfind(b",[", 0, end)], payload[payload.rfind(b",[[") + 1 : -1]


def _parse(raw: bytes, digests: frozenset[str]) -> tuple[int, bytes, bytes, str]:
    """Workload index, canonical JSON of trace and arguments, and digest."""
    match loads(raw):
        case [int(at), list(payload)] if type(at) is int:
            trace, _, _, arguments = fields(payload)
        case _:
            raise ValueError("not a record: expected [index, [trace, secs, target, args]]")
    own = digest(payload)
    if own not in digests:
        raise ValueError(_ALIEN)
    return at, canonical_json(trace), canonical_json(arguments), own


def _numbered(lines: Iterator[bytes]) -> Iterator[tuple[int, int, bytes]]:
    """Line number from 1, offset, and the line without its newline."""
    offset = 0
    for number, line in enumerate(lines, 1):
        yield number, offset, line.removesuffix(b"\n")
        offset += len(line)


def _read_provenance(source: Source, path: Path, key: TargetKey) -> dict[str, Any]:
    running = running_tvm_version()
    root = shlex.quote(str(path.parent.parent))
    if not source.exists:
        frame = {"schema": SCHEMA_VERSION, "target": str(key), "tvm": running}
        return frame | {"digests": [], "records": {}}
    text = source.content()
    try:
        data = loads(text)
    except (ValueError, RecursionError) as error:
        if b"\n<<<<<<< " in b"\n" + text:
            raise MalformedProvenanceError(
                f"{path} holds both sides of a merge that git left to you: git merge --abort, and "
                "merge again with the driver for records; run: prefilltune db install-merge-driver"
            ) from error
        raise MalformedProvenanceError(
            f"{path} is not JSON: {error}; restore it from git or tune again"
        ) from error
    check_file(data, str(path))
    if data["target"] != str(key):
        raise MalformedProvenanceError(
            f"{path} is of target {data['target']!r}; expected {str(key)!r}: a folder is named "
            "after its target, rename it back"
        )
    if not is_trusted_version(data["tvm"]):
        raise VersionMismatchError(
            f"{path} holds traces of TVM {data['tvm']}; TVM {running} is running and cannot be "
            "trusted with them: install that version, or move them into a new database; run: "
            f"prefilltune db migrate {root} --database {root}-of-tvm-{running}"
        )
    return data
