"""What the three files of a target hold: where each intact line is, parsed when asked for."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from .entry import BadLine, Entry, Head
from .plausibility import doubt
from .provenance import FULL, Provenance, digest, record_id, text_digest
from .target_key import TargetKey

WORKLOADS, RECORDS, PROVENANCE = "workloads.json", "records.json", "provenance.json"
FILES = (WORKLOADS, PROVENANCE, RECORDS)


class Place(NamedTuple):
    """Where a line is, its newline left out, and the digest that it must have."""

    offset: int
    size: int
    digest: str


class WorkloadLine(NamedTuple):
    """An intact line of ``workloads.json``: line index from 0, and where."""

    index: int
    place: Place


class RecordLine(NamedTuple):
    """An intact line of ``records.json``: whose, on which workload (its hash), and where."""

    head: Head
    workload: str
    place: Place


class Stamp(NamedTuple):
    """What changes when a file does."""

    inode: int
    size: int
    mtime_ns: int


MISSING = Stamp(0, 0, 0)


class Source:
    """A file as it was when it was opened; a missing one is empty.

    It stays readable when a writer puts another in its place.

    Attributes
    ----------
    exists : bool
        Whether there was a file.
    stamp : Stamp
        Of the file at the opening.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
            self.exists = True
        except (FileNotFoundError, NotADirectoryError):
            self._descriptor = os.open(os.devnull, os.O_RDONLY)
            self.exists = False
        weakref.finalize(self, os.close, self._descriptor)
        status = os.fstat(self._descriptor)
        if stat.S_ISDIR(status.st_mode):  # which reading would say of a number, not of the path
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        self.stamp = _stamp(status) if self.exists else MISSING

    def lines(self) -> Iterator[bytes]:
        """Every line that was there at the opening, with its newline; the last may lack it."""
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        left = self.stamp.size
        with open(self._descriptor, "rb", buffering=1 << 20, closefd=False) as file:
            for line in file:
                left -= len(line)
                if left < 0:  # a writer is at work
                    if rest := line[:left]:
                        yield rest
                    return
                yield line

    def content(self) -> bytes:
        """Every byte that was there at the opening."""
        return self.read(0, self.stamp.size)

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of the file; fewer where it ends."""
        return os.pread(self._descriptor, size, offset)

    def line_number(self, offset: int) -> int:
        """The number, from 1, of the line that begins at ``offset``."""
        return 1 + self.read(0, offset).count(b"\n")


def stamp_of(path: Path) -> Stamp:
    """The stamp of the file that has this name now."""
    try:
        return _stamp(os.stat(path))
    except (FileNotFoundError, NotADirectoryError):
        return MISSING


def _stamp(status: os.stat_result) -> Stamp:
    return Stamp(status.st_ino, status.st_size, status.st_mtime_ns)


@dataclass
class Contents:
    """What the three files hold.

    Parameters
    ----------
    key : TargetKey
        Whose records these are.
    origin : str
        Path of the file of records.
    sources : Mapping of str to Source
        The files by name.
    records : dict of str to RecordLine
        Intact records by id, in the order of the file.
    problems : list of BadLine
        What was skipped, or found in spite of a wrong workload index.
    workloads : dict of str to WorkloadLine
        Intact workloads by structural hash.
    workload_lines : int
        Lines of ``workloads.json``, bad ones included.
    provenance : Mapping of str to object
        By record id, as the file has it.
    digests : frozenset of str
        That the provenance notes; empty if the contents are of an index.
    is_parsed : bool
        Whether every record has been asked for, and so every problem is known.
    """

    key: TargetKey
    origin: str
    sources: Mapping[str, Source]
    records: dict[str, RecordLine] = field(default_factory=dict)
    problems: list[BadLine] = field(default_factory=list)
    workloads: dict[str, WorkloadLine] = field(default_factory=dict)
    workload_lines: int = 0
    provenance: Mapping[str, Any] = field(default_factory=dict)
    digests: frozenset[str] = frozenset()
    is_parsed: bool = False
    _texts: dict[str, str] = field(default_factory=dict)

    def entry(self, id_: str) -> Entry | None:
        """Parse one record.

        Returns
        -------
        Entry or None
            Nothing if the record turns out bad: it is then among the problems, and no record.
        """
        line = self.records[id_]
        try:
            entry = self._parse(line)
            if reason := doubt(entry, self.key):
                raise ValueError(reason)
        except (ValueError, KeyError, RecursionError) as error:
            del self.records[id_]
            source, place = self.sources[RECORDS], line.place
            text = source.read(place.offset, place.size)
            self.report(RECORDS, source.line_number(place.offset), str(error), text)
            return None
        return entry

    def entries(self) -> list[Entry]:
        """Parse every record, in the order of the file."""
        self.is_parsed = True
        return [entry for id_ in list(self.records) if (entry := self.entry(id_))]

    def check(self) -> None:
        """Ask for every record once, keeping none, so that every problem is known."""
        if not self.is_parsed:
            self.is_parsed = True
            for id_ in list(self.records):
                self.entry(id_)

    def payload(self, id_: str) -> bytes:
        """The JSON of a record as the file has it, its workload index left out.

        Raises
        ------
        ValueError
            If it has changed since it was judged.
        """
        place = self.records[id_].place
        payload = payload_of(self.sources[RECORDS].read(place.offset, place.size))
        if text_digest(payload) != place.digest and digest(loads(payload)) != place.digest:
            raise ValueError("it has changed since it was judged")
        return payload

    def workload_text(self, hash_: str) -> str:
        """The serialised text of a workload; one for all its records.

        Raises
        ------
        ValueError
            If it has changed since it was judged.
        """
        if hash_ not in self._texts:
            place = self.workloads[hash_].place
            pair = loads(self.sources[WORKLOADS].read(place.offset, place.size))
            if digest(pair) != place.digest:
                raise ValueError("its workload has changed since it was judged")
            self._texts[hash_] = pair[1]
        return self._texts[hash_]

    def report(self, file: str, line: int, reason: str, raw: bytes) -> None:
        """Add a problem."""
        text = raw.decode(errors="surrogateescape")
        self.problems.append(BadLine(file, line, reason, text))

    def _parse(self, line: RecordLine) -> Entry:
        id_ = line.head.record_id
        payload = self.payload(id_)
        trace, secs, target, args = fields(loads(payload))
        if b"\\u" in payload:
            json.dumps([trace, target, args], ensure_ascii=False).encode()  # no lone surrogates
        provenance = Provenance.from_json(self.provenance[id_], f"record {id_}")
        # The ids of the first records were made without their lengths, whatever those were; those
        # of descriptions that have sizes are made without their arguments.
        ids = {
            record_id(line.workload, trace, lens, arguments)
            for lens in (provenance.lens, FULL)
            for arguments in (None, args)
        }
        if id_ not in ids:
            raise ValueError(f"it is not record {id_}")
        workload = (line.workload, self.workload_text(line.workload))
        return Entry(id_, workload, trace, tuple(secs), target, args, provenance, self.origin,
                     line.place.offset)  # fmt: skip


def loads(raw: bytes) -> Any:
    """Strict JSON.

    Raises
    ------
    ValueError, RecursionError
        If it is none, or nested too deeply.
    """
    return json.loads(raw.decode(), parse_constant=_reject_constant, parse_float=_finite)


def payload_of(line: bytes) -> bytes:
    """What follows the workload index in a line of ``records.json``.

    Examples
    --------
    >>> payload_of(b"[3,[[[],[]],[0.1],null,null]]")
    b'[[[],[]],[0.1],null,null]'
    """
    return line.partition(b",")[2].rstrip()[:-1].strip()


def fields(payload: Any) -> tuple[list[Any], list[Any], dict[str, Any] | None, list[Any] | None]:
    """Trace, times, target and arguments of a record.

    Raises
    ------
    ValueError
        If ``payload`` has another form.
    """
    match payload:
        case [list(trace), list(secs), (dict() | None) as target, (list() | None) as args]:
            return trace, secs, target, args
    raise ValueError("not a record: expected [index, [trace, secs, target, args]]")


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    # Infinity could not be written down again.
    if math.isinf(value := float(text)):
        raise ValueError(f"{text[:20]} is too large a number")
    return value
