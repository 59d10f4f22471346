"""Several databases as one, the same whichever order they are named in."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .dates import moment
from .entry import BadLine, Entry
from .folders import target_keys
from .judging import judge
from .provenance import canonical_json
from .store import RecordStore
from .target_key import TargetKey
from .writing import require_writable


@dataclass(frozen=True)
class Merge:
    """What a merge did for one target.

    Parameters
    ----------
    key : TargetKey
        Which.
    added, updated : tuple of Entry
        Records that are new in the output, and those with newer times than it had.
    refused : Mapping of str to str
        Record id: why it stays where it is.
    bad_lines : tuple of (Path, BadLine)
        What could not be read, each with its folder.
    """

    key: TargetKey
    added: tuple[Entry, ...]
    updated: tuple[Entry, ...]
    refused: Mapping[str, str]
    bad_lines: tuple[tuple[Path, BadLine], ...]


def merge(
    sources: Sequence[Path], output: Path, keys: Iterable[TargetKey] | None = None
) -> list[Merge]:
    """Unite the records of ``sources`` and of ``output`` in ``output``.

    The order of the sources changes nothing, not a byte, and neither does a repetition. Of two
    measurements of one record the later stays, ties by content. Records that ``output`` has are
    its own; all others are judged in a child process first.

    Parameters
    ----------
    sources : sequence of Path
        Databases; each folder is read once and left as it is, ``output`` excepted.
    output : Path
        Made if missing.
    keys : iterable of TargetKey, optional
        The only targets to merge.

    Returns
    -------
    list of Merge
        One for each target.

    Raises
    ------
    DatabaseNotFoundError
        If a source is no folder.
    VersionMismatchError, MalformedProvenanceError
        If a folder cannot be used; the targets before it are merged.
    NotWritableError
        If ``output`` cannot be written.
    """
    found = {key for source in sources for key in target_keys(source)}
    chosen = found if keys is None else found.intersection(keys)
    require_writable(output)  # judging may take long
    others = [source for source in sources if source.resolve() != output.resolve()]
    return [_merge_target(key, others, output) for key in sorted(chosen, key=str)]


def _merge_target(key: TargetKey, others: Sequence[Path], output: Path) -> Merge:
    own = RecordStore.open(output, key, create=True)
    known = {entry.record_id: entry for entry in own.entries}
    bad_lines = [(own.folder, line) for line in own.noticed]
    is_sound = not bad_lines
    offered: list[Entry] = []
    for source in others:
        store = RecordStore.open(source, key, create=True)
        offered += [entry for entry in store.entries if _is_news(entry, known)]
        bad_lines += [(store.folder, line) for line in store.noticed]
    accepted: dict[str, Entry] = {}
    refused: dict[str, str] = {}
    for batch in _batches(offered):
        verdict = judge(batch.values())
        refused |= verdict
        accepted = union(accepted.values(), (batch[id_] for id_ in batch.keys() - verdict.keys()))
    if known or accepted or not is_sound:
        own.change(lambda present: _by_id(union(present, accepted.values())))
    added = tuple(entry for id_, entry in accepted.items() if id_ not in known)
    updated = tuple(entry for id_, entry in accepted.items() if id_ in known)
    return Merge(key, _sorted(added), _sorted(updated), refused, tuple(bad_lines))


def _batches(entries: Iterable[Entry]) -> list[dict[str, Entry]]:
    """Every entry once, in groups without an id twice: a judge names its verdicts by ids."""
    batches: list[dict[str, Entry]] = []
    for entry in entries:
        id_ = entry.record_id
        if any(batch.get(id_) == entry for batch in batches):
            continue
        free = next((batch for batch in batches if id_ not in batch), None)
        if free is None:
            batches.append({id_: entry})
        else:
            free[id_] = entry
    return batches


def _by_id(entries: Mapping[str, Entry]) -> list[Entry]:
    """In the order of their ids, which is the same whichever database they come from."""
    return [entries[id_] for id_ in sorted(entries)]


def _is_news(entry: Entry, known: Mapping[str, Entry]) -> bool:
    other = known.get(entry.record_id)
    return other is None or recency(other) < recency(entry)


def union(*groups: Iterable[Entry]) -> dict[str, Entry]:
    """Every record of ``groups`` by id; of several with one id the latest, see ``recency``."""
    found: dict[str, Entry] = {}
    for entry in itertools.chain.from_iterable(groups):
        other = found.get(entry.record_id)
        found[entry.record_id] = entry if other is None else max(other, entry, key=recency)
    return found


def recency(entry: Entry) -> tuple[float, bytes, bytes]:
    """Orders measurements of one record, the latest last, ties by content."""
    content = canonical_json([entry.workload_line, entry.payload])
    return *provenance_recency(asdict(entry.provenance)), content


def provenance_recency(provenance: Mapping[str, Any]) -> tuple[float, bytes]:
    """The part of :func:`recency` that a provenance file knows."""
    return moment(provenance["date"]), canonical_json(provenance)


def _sorted(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    return tuple(sorted(entries, key=lambda entry: (entry.group, entry.speed)))
