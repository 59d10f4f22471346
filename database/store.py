"""The records of one target: read by anybody, written under a lock."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..workloads.choices import OPEN
from ..workloads.errors import InvalidSpecError
from ..workloads.shapes import PrefillShape
from ..workloads.spec import PrefillSpec
from .contents import FILES, PROVENANCE, RECORDS, WORKLOADS, Contents, loads
from .durable import append, cut, is_writable, torn_line, write_atomically
from .entry import BadLine, Entry, Head
from .errors import DatabaseNotFoundError, ImplausibleRecordError
from .locking import changing
from .plausibility import doubt
from .provenance import SCHEMA_VERSION, digest, file_lines, running_tvm_version
from .reading import read_folder
from .target_key import TargetKey
from .writing import not_writable, require_writable, writing

REJECTED = "records.rejected.json"
LOCK = ".lock"

_KEPT_TEXTS = 1024


class RecordStore:
    """The records of one target in one folder; open it with :meth:`open`.

    Opening finds where the records are; each is parsed when it is asked for. What a store shows
    is what the files held at its opening or after its own last change.

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
        self._known: Contents | None = read_folder(folder, key, indexed=True)
        self._by_spec: dict[str, dict[str, list[Head]]] = {}
        self._by_rest: dict[PrefillSpec, list[PrefillSpec]] = {}

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
            If the folder is of another version of TVM, or says nothing of its records.
        """
        folder = Path(root) / str(key)
        if not (create or folder.is_dir()):
            raise DatabaseNotFoundError(
                f"{folder} is no folder of records; correct the path or the target, or make it by "
                "tuning"
            )
        return cls(folder, key)

    @property
    def entries(self) -> list[Entry]:
        """The intact records, in the order of the file; parses all of them."""
        return self._contents.entries()

    @property
    def problems(self) -> list[BadLine]:
        """What was skipped, or found in spite of a wrong workload index; parses all records."""
        self._contents.check()
        return self.noticed

    @property
    def noticed(self) -> list[BadLine]:
        """The problems found so far: those that show without parsing intact lines."""
        return sorted(self._contents.problems, key=lambda bad: (FILES.index(bad.file), bad.line))

    @property
    def workloads(self) -> set[tuple[str, str]]:
        """Spec and shape of every record; parses nothing."""
        return {(line.head.spec, line.head.shape) for line in self._contents.records.values()}

    def entry(self, record_id: str) -> Entry | None:
        """The record of this id; ``None`` if there is none, or its line turns out bad."""
        contents = self._contents
        return contents.entry(record_id) if record_id in contents.records else None

    def heads(self, spec: str) -> Mapping[str, list[Head]]:
        """What is known of the records of a spec, by shape; parses nothing."""
        if not self._by_spec:
            for line in self._contents.records.values():
                shapes = self._by_spec.setdefault(line.head.spec, {})
                shapes.setdefault(line.head.shape, []).append(line.head)
        return self._by_spec.get(spec, {})

    def alike(self, spec: PrefillSpec) -> list[PrefillSpec]:
        """The specs of records that differ from one in nothing but the window; itself, if there."""
        if not self._by_rest:
            for text in sorted({line.head.spec for line in self._contents.records.values()}):
                found = PrefillSpec.known(text)
                if found is not None:
                    self._by_rest.setdefault(_but_for_its_window(found), []).append(found)
        return self._by_rest.get(_but_for_its_window(spec), [])

    def require_writable(self) -> None:
        """Try whether records can be written, before hours are spent on some.

        Raises
        ------
        NotWritableError
            If not.
        """
        require_writable(self.folder)
        self.add([])

    def add(self, entries: Iterable[Entry]) -> None:
        """Append ``entries``; one whose id exists replaces the times and provenance there.

        When it returns, the entries are on disk and survive a crash.

        Raises
        ------
        NotWritableError
            If the folder is read-only, its disk is full, or it stays locked for a minute; then
            the records are what they were.
        MalformedProvenanceError, ImplausibleRecordError
            Before anything is written, if an entry's provenance does not follow the schema, or
            an entry cannot be of this target.
        """
        new = {entry.record_id: entry for entry in entries}
        with self._locked() as known:
            if known.records.keys() & new.keys():
                self._rewrite(known, known.records.keys() - new.keys(), new)
            else:
                self._append(known, new)

    def replace(self, entries: Iterable[Entry]) -> None:
        """Let the files hold ``entries`` and nothing else.

        Workloads without a record are dropped; bad lines go to ``records.rejected.json``.

        Raises
        ------
        NotWritableError, MalformedProvenanceError, ImplausibleRecordError
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
        NotWritableError, MalformedProvenanceError, ImplausibleRecordError
            As :meth:`add`.
        """
        with self._locked() as known:
            self._rewrite(known, (), {entry.record_id: entry for entry in make(known.entries())})

    def prune(self, keep: int, needed: Collection[str] = ()) -> list[Entry]:
        """Keep the fastest ``keep`` records of each (spec, shape, space, lens); rewrites the files.

        Specs that amount to the same attention in a shape
        (:meth:`~prefilltune.workloads.PrefillSpec.within`) count as one there.

        Parameters
        ----------
        keep : int
            How many stay of each.
        needed : Collection[str]
            Ids of records that stay besides.

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
            groups: dict[tuple[str, ...], list[str]] = {}
            heads = (line.head for line in known.records.values())
            for head in sorted(heads, key=lambda head: head.speed):
                _, *rest = head.group
                group = (_amounts_to(head.spec, head.shape), *rest)
                groups.setdefault(group, []).append(head.record_id)
            ranked = [pair for ids in groups.values() for pair in enumerate(ids)]
            kept = [id_ for place, id_ in ranked if place < keep or id_ in needed]
            going = [id_ for place, id_ in ranked if place >= keep and id_ not in needed]
            removed = [known.entry(id_) for id_ in going]
            self._rewrite(known, kept, {})
            return [entry for entry in removed if entry]

    @property
    def _contents(self) -> Contents:
        if self._known is None:
            self._known = read_folder(self.folder, self.key, indexed=True)
        return self._known

    @contextmanager
    def _locked(self) -> Iterator[Contents]:
        """Hold the lock; yields what the files hold now."""
        self._require_writable()
        with changing(self.folder, self.folder / LOCK):
            try:
                known = read_folder(self.folder, self.key)
                if self._repair():
                    known = read_folder(self.folder, self.key)
                yield known
            finally:
                self._known, self._by_spec, self._by_rest = None, {}, {}

    def _repair(self) -> bool:
        """Set aside last lines that a crash has torn, with copies; tells whether there were any."""
        found = False
        for name in (WORKLOADS, RECORDS):
            torn = torn_line(self.folder / name)
            try:
                if torn:
                    loads(torn)  # only its newline is missing
            except (ValueError, RecursionError) as error:
                text = torn.decode(errors="surrogateescape")
                problem = {"file": name, "reason": f"torn last line: {error}", "text": text}
                append(self.folder / REJECTED, [json.dumps(problem).encode()])
                cut(self.folder / name, len(torn))
                found = True
        return found

    def _require_writable(self) -> None:
        """Refuse what the system might let this process do, but its permissions speak against."""
        with writing(self.folder):
            files = [self.folder / name for name in FILES]
            nearest = next(path for path in (self.folder, *self.folder.parents) if path.exists())
            for path in (nearest, *(file for file in files if file.exists())):
                if not is_writable(path):
                    raise not_writable(
                        self.folder, PermissionError(errno.EACCES, f"{path} is read-only")
                    )

    def _append(self, known: Contents, new: Mapping[str, Entry]) -> None:
        texts = {
            hash_: text
            for hash_, text in (entry.workload_line for entry in new.values())
            if hash_ not in known.workloads
        }
        indices = {hash_: line.index for hash_, line in known.workloads.items()}
        indices |= {hash_: known.workload_lines + i for i, hash_ in enumerate(texts)}
        # All is serialised, and so checked, before anything is written.
        workloads = [_workload_line(*pair) for pair in texts.items()]
        records = [_record_line(indices[e.workload_line[0]], e.payload) for e in new.values()]
        provenance = self._provenance(
            {**known.provenance, **self._checked(new)},
            known.digests | _digests(texts, new.values()),
        )
        if new:
            # Provenance alone is no record, so that a crash in between leaves no bad line.
            write_atomically(self.folder / PROVENANCE, provenance)
            append(self.folder / WORKLOADS, workloads)
            append(self.folder / RECORDS, records)

    def _rewrite(self, known: Contents, kept: Iterable[str], new: Mapping[str, Entry]) -> None:
        """Write the records ``kept`` of ``known``, and ``new`` ones."""
        kept = [id_ for id_ in kept if id_ in known.records]
        workload_of = {id_: known.records[id_].workload for id_ in kept}
        workload_of |= {id_: entry.workload_line[0] for id_, entry in new.items()}
        heads = [known.records[id_].head for id_ in kept] + [entry.head for entry in new.values()]
        heads.sort(key=lambda head: (head.group, head.speed))
        hashes = list(dict.fromkeys(workload_of[head.record_id] for head in heads))
        index_of = {hash_: index for index, hash_ in enumerate(hashes)}

        fresh = dict(entry.workload_line for entry in new.values())
        texts = {hash_: fresh.get(hash_) or known.workload_text(hash_) for hash_ in hashes}
        provenance = {id_: known.provenance[id_] for id_ in kept} | self._checked(new)
        digests = _digests(texts, new.values())
        digests |= {known.records[id_].place.digest for id_ in kept}
        new_lines = {id_: _dumps(entry.payload) for id_, entry in new.items()}

        def record_lines() -> Iterator[bytes]:
            for head in heads:
                id_ = head.record_id
                payload = new_lines[id_] if id_ in new_lines else known.payload(id_)
                yield b"[%d,%b]" % (index_of[workload_of[id_]], payload)

        append(self.folder / REJECTED, _rejected_lines(known))
        # Until the last rename there are old lines next to new ones: both need their provenance.
        both = self._provenance({**known.provenance, **provenance}, known.digests | digests)
        write_atomically(self.folder / PROVENANCE, both)
        write_atomically(self.folder / WORKLOADS, [_workload_line(*p) for p in texts.items()])
        write_atomically(self.folder / RECORDS, record_lines())
        write_atomically(self.folder / PROVENANCE, self._provenance(provenance, digests))

    def _checked(self, entries: Mapping[str, Entry]) -> dict[str, Any]:
        """The provenance of entries as JSON, by id; an implausible one is refused."""
        checked = {id_: entry.provenance.to_json() for id_, entry in entries.items()}
        for entry in entries.values():
            if reason := doubt(entry, self.key):
                raise ImplausibleRecordError(
                    f"record {entry.record_id} does not belong into {self.folder}: {reason}; "
                    "measure it again on its machine"
                )
        return checked

    def _provenance(self, records: Mapping[str, Any], digests: Iterable[str]) -> list[bytes]:
        data = {
            "schema": SCHEMA_VERSION,
            "target": str(self.key),
            "tvm": running_tvm_version(),
            "digests": digests,
            "records": records,
        }
        return list(file_lines(data))


def _but_for_its_window(spec: PrefillSpec) -> PrefillSpec:
    return replace(spec, window=OPEN)


@lru_cache(maxsize=_KEPT_TEXTS)
def _amounts_to(spec: str, shape: str) -> str:
    """What a spec amounts to in a shape, as text; where this version reads neither, the spec."""
    try:
        return str(PrefillSpec.parse(spec).within(PrefillShape.parse(shape)))
    except InvalidSpecError:
        return spec


def _digests(texts: Mapping[str, str], entries: Iterable[Entry]) -> set[str]:
    """What a provenance file must list, so that the lines of these workloads and records count."""
    return {*map(digest, map(list, texts.items())), *(digest(e.payload) for e in entries)}


def _dumps(value: Any) -> bytes:
    # TVM's reader knows no \u escapes and no NaN. Sorted as for its digest, the text need not be
    # parsed when the digest is checked.
    text = json.dumps(
        value, separators=(",", ":"), ensure_ascii=False, allow_nan=False, sort_keys=True
    )
    return text.encode()


def _workload_line(hash_: str, text: str) -> bytes:
    return _dumps([hash_, text])


def _record_line(index: int, payload: list[Any]) -> bytes:
    return b"[%d,%b]" % (index, _dumps(payload))


def _rejected_lines(known: Contents) -> list[bytes]:
    """The bad lines, and the provenance that no record has."""
    orphans = known.provenance.keys() - known.records.keys()
    lost = [asdict(problem) for problem in known.problems]
    lost += [{"file": PROVENANCE, id_: known.provenance[id_]} for id_ in sorted(orphans)]
    return [json.dumps(item).encode() for item in lost]
