"""The records of one target in one folder: read by anybody, written under a lock."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .entry import BadLine, Entry
from .errors import DatabaseNotFoundError, NotWritableError
from .provenance import SCHEMA_VERSION, digest, running_tvm_version
from .reading import PROVENANCE, RECORDS, WORKLOADS, Contents, read_folder
from .target_key import TargetKey

REJECTED = "records.rejected.json"
LOCK = ".lock"
LOCK_TIMEOUT_SECS = 60.0


class RecordStore:
    """The records of one target in one folder; open it with :meth:`open`.

    Attributes
    ----------
    folder : Path
        ``<root>/<target key>``.
    key : TargetKey
        Whose records these are.
    """

    def __init__(self, folder: Path, key: TargetKey) -> None:
        self.folder = folder
        self.key = key
        self._contents: Contents = read_folder(folder, key)

    @classmethod
    def open(cls, root: Path, key: TargetKey, *, create: bool = False) -> RecordStore:
        """Read the records of ``key`` under ``root``; needs no permission to write.

        Parameters
        ----------
        root : Path
            Folder of target folders.
        key : TargetKey
            Whose records.
        create : bool
            Take a missing folder as an empty one, which :meth:`add` makes.

        Raises
        ------
        DatabaseNotFoundError
            If the folder is missing and ``create`` is false.
        VersionMismatchError, MalformedProvenanceError
            As :func:`~prefilltune.database.reading.read_folder`.
        """
        folder = Path(root) / str(key)
        if not (create or folder.is_dir()):
            raise DatabaseNotFoundError(
                f"{folder} is no folder of records; correct the path or the target, or run "
                "`prefilltune tune` to make it"
            )
        return cls(folder, key)

    @property
    def entries(self) -> list[Entry]:
        """The intact records, in the order of the file."""
        return list(self._contents.entries.values())

    @property
    def problems(self) -> list[BadLine]:
        """What was skipped, or found in spite of a wrong workload index."""
        return list(self._contents.problems)

    def add(self, entries: Iterable[Entry]) -> None:
        """Append ``entries``; one whose id exists replaces the times and provenance there.

        When it returns, the entries are on disk and survive a crash.

        Raises
        ------
        NotWritableError
            Before anything is written, if the folder is read-only or stays locked for a minute.
        MalformedProvenanceError
            Before anything is written, if an entry's provenance does not follow the schema.
        """
        new = {entry.record_id: entry for entry in entries}
        with self._locked() as known:
            if known.entries.keys() & new.keys():
                self._rewrite(known, {**known.entries, **new}.values())
            else:
                self._append(known, list(new.values()))

    def replace(self, entries: Iterable[Entry]) -> None:
        """Let the files hold ``entries`` and nothing else.

        Workloads without a record are dropped; bad lines go to ``records.rejected.json``.

        Raises
        ------
        NotWritableError, MalformedProvenanceError
            As :meth:`add`.
        """
        entries = list(entries)
        self.change(lambda _: entries)

    def change(self, make: Callable[[list[Entry]], Iterable[Entry]]) -> None:
        """Let the files hold what ``make`` returns for what they hold once the lock is taken.

        So nothing is lost that another process adds in between. Workloads without a record are
        dropped; bad lines go to ``records.rejected.json``.

        Raises
        ------
        NotWritableError, MalformedProvenanceError
            As :meth:`add`.
        """
        with self._locked() as known:
            self._rewrite(known, make(list(known.entries.values())))

    def prune(self, keep: int) -> list[Entry]:
        """Keep the fastest ``keep`` records of each (spec, shape, space, lens); rewrites the files.

        Returns
        -------
        list of Entry
            The removed ones.

        Raises
        ------
        ValueError
            If ``keep`` is below 1.
        NotWritableError
            As :meth:`add`.
        """
        if keep < 1:
            raise ValueError(f"keep is {keep}; it must be 1 or more")
        with self._locked() as known:
            groups: dict[tuple[str, ...], list[Entry]] = {}
            for entry in sorted(known.entries.values(), key=lambda entry: entry.speed):
                groups.setdefault(entry.group, []).append(entry)
            self._rewrite(known, [entry for group in groups.values() for entry in group[:keep]])
            return [entry for group in groups.values() for entry in group[keep:]]

    @contextmanager
    def _locked(self) -> Iterator[Contents]:
        """Hold the lock; yields what the files hold now, and reads them again at the end."""
        self._require_writable()
        lock = FileLock(self.folder / LOCK, timeout=LOCK_TIMEOUT_SECS)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as error:
            raise NotWritableError(
                f"{self.folder} has been locked by another process for {LOCK_TIMEOUT_SECS:.0f} s; "
                "wait for its end"
            ) from error
        except OSError as error:
            raise self._not_writable(str(error)) from error
        try:
            yield read_folder(self.folder, self.key)
            self._contents = read_folder(self.folder, self.key)
        finally:
            lock.release()

    def _require_writable(self) -> None:
        files = [self.folder / name for name in (WORKLOADS, RECORDS, PROVENANCE)]
        nearest = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        for path in (nearest, *(file for file in files if file.exists())):
            if not os.access(path, os.W_OK):
                raise self._not_writable(f"{path} is read-only")

    def _not_writable(self, reason: str) -> NotWritableError:
        return NotWritableError(
            f"cannot write records to {self.folder}: {reason}; choose another database"
        )

    def _append(self, known: Contents, entries: list[Entry]) -> None:
        fresh = {
            hash_: text
            for hash_, text in (entry.workload_line for entry in entries)
            if hash_ not in known.workloads
        }
        indices = {hash_: workload.index for hash_, workload in known.workloads.items()}
        indices |= {hash_: known.workload_lines + i for i, hash_ in enumerate(fresh)}
        # All is serialised, and so checked, before anything is written.
        records = _record_lines(entries, indices)
        provenance = self._provenance_text(
            entries,
            _digests(fresh, entries) | {*known.provenance["digests"]},
            known.provenance["records"],
        )
        _append_lines(self.folder / WORKLOADS, _workload_lines(fresh))
        _write_atomically(self.folder / PROVENANCE, provenance)
        _append_lines(self.folder / RECORDS, records)

    def _rewrite(self, known: Contents, entries: Iterable[Entry]) -> None:
        entries = sorted(entries, key=lambda entry: (entry.group, entry.speed))
        texts = dict(entry.workload_line for entry in entries)
        # Until the last rename there are old lines next to new ones: both need their digests.
        old_texts = {hash_: old.text for hash_, old in known.workloads.items()}
        digests = _digests(texts, entries) | _digests(old_texts, known.entries.values())
        records = _record_lines(entries, {hash_: index for index, hash_ in enumerate(texts)})
        provenance = self._provenance_text(entries, digests, {})
        _append_lines(self.folder / REJECTED, _rejected_lines(known))
        _write_atomically(self.folder / WORKLOADS, _joined(_workload_lines(texts)))
        _write_atomically(self.folder / PROVENANCE, provenance)
        _write_atomically(self.folder / RECORDS, _joined(records))

    def _provenance_text(
        self, entries: list[Entry], digests: set[str], old_records: dict[str, Any]
    ) -> bytes:
        new_records = {entry.record_id: entry.provenance.to_json() for entry in entries}
        data = {
            "schema": SCHEMA_VERSION,
            "target": str(self.key),
            "tvm": running_tvm_version(),
            "digests": sorted(digests),
            "records": old_records | new_records,
        }
        return (json.dumps(data, indent=1, sort_keys=True) + "\n").encode()


def _digests(texts: dict[str, str], entries: Iterable[Entry]) -> set[str]:
    """Of the lines of workloads and records."""
    return {*map(digest, map(list, texts.items())), *(digest(e.payload) for e in entries)}


def _dumps(value: Any) -> bytes:
    # TVM's reader knows no \u escapes and no NaN.
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def _workload_lines(texts: dict[str, str]) -> list[bytes]:
    return [_dumps([hash_, text]) for hash_, text in texts.items()]


def _record_lines(entries: Iterable[Entry], indices: dict[str, int]) -> list[bytes]:
    return [_dumps([indices[entry.workload_line[0]], entry.payload]) for entry in entries]


def _rejected_lines(known: Contents) -> list[bytes]:
    """The bad lines, and the provenance that no record has."""
    orphans = known.provenance["records"].keys() - known.entries.keys()
    lost = [asdict(problem) for problem in known.problems]
    lost += [{"file": PROVENANCE, id_: known.provenance["records"][id_]} for id_ in sorted(orphans)]
    return [json.dumps(item).encode() for item in lost]


def _joined(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def _append_lines(path: Path, lines: list[bytes]) -> None:
    if not lines:
        return
    with path.open("a+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":  # a line that was torn by a crash stays a line of its own
                file.write(b"\n")
        file.write(_joined(lines))
        file.flush()
        os.fsync(file.fileno())


def _write_atomically(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")  # one name will do under the lock
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    if hasattr(os, "O_DIRECTORY"):  # the rename itself, where the system can sync a folder
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
