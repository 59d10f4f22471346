"""Find the record for a workload, and say how near it is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from ..workloads.errors import PrefilltuneError
from ..workloads.spec import PrefillShape, PrefillSpec
from .entry import Entry
from .errors import DatabaseNotFoundError, InvalidTargetKeyError, NoRecordError
from .store import RecordStore
from .target_key import TargetKey

NEAREST_NAMED = 5  # records that the error of a miss names


class Tier(IntEnum):
    """How near a record is to what was asked for, the nearest first; always the same spec."""

    EXACT = 0
    """Same shape and target."""
    NEAREST_SHAPE = 1
    """Same target, another shape."""
    FAMILY = 2
    """Same kind and arch, another device; the same shape or the nearest."""
    OTHER_TARGET = 3
    """Same kind, another arch; the same shape or the nearest."""

    def __str__(self) -> str:
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True)
class Match:
    """What a look-up found.

    Parameters
    ----------
    entry : Entry
        The record.
    tier : Tier
        How near it is.
    distance : float
        Of the shapes: see :func:`shape_distance`.
    key : TargetKey
        The target that it was measured on.
    root : Path
        The database that it is from.
    """

    entry: Entry
    tier: Tier
    distance: float
    key: TargetKey
    root: Path


def shape_distance(one: PrefillShape, other: PrefillShape) -> float:
    """Sum of ``|log2(one / other)|`` over batch, qo_len and kv_len.

    Symmetric; 0 only for equal shapes; doubling one size costs 1.

    Examples
    --------
    >>> shape_distance(PrefillShape(4, 128), PrefillShape(8, 128, 64))
    2.0
    """
    pairs = ((one.batch, other.batch), (one.qo_len, other.qo_len), (one.num_kv, other.num_kv))
    return math.fsum(abs(math.log2(a) - math.log2(b)) for a, b in pairs)


def lookup(
    roots: Sequence[Path],
    key: TargetKey,
    spec: PrefillSpec,
    shape: PrefillShape,
    *,
    lens: str | None = None,
    space: str | None = None,
    accept: Tier = Tier.EXACT,
) -> Match:
    """Find the best record for ``spec`` on ``shape``.

    Parameters
    ----------
    roots : sequence of Path
        Databases; a missing one counts as empty and is never made.
    key : TargetKey
        The machine at hand.
    spec : PrefillSpec
        What is computed.
    shape : PrefillShape
        On which sizes.
    lens : str, optional
        Length distribution to prefer.
    space : str, optional
        The only design space to look into.
    accept : Tier
        The farthest tier that will do.

    Returns
    -------
    Match
        The nearest tier first, then the smallest distance, then ``lens``, then the smallest
        median time, then the record id.

    Raises
    ------
    NoRecordError
        If there is none up to ``accept``; names what is near.
    VersionMismatchError, MalformedProvenanceError
        If the records of ``key`` itself cannot be used. Folders of other targets are only named.
    """
    notes: list[str] = []
    text = str(spec)

    def matches(folders: Iterable[tuple[Path, TargetKey, RecordStore]]) -> Iterator[Match]:
        for root, found_key, store in folders:
            if store.problems:
                notes.append(f"{len(store.problems)} bad lines in {store.folder}")
            for entry in store.entries:
                if entry.provenance.spec == text and space in (None, entry.provenance.space):
                    distance = shape_distance(shape, PrefillShape.parse(entry.provenance.shape))
                    tier = _tier(key, found_key, distance)
                    yield Match(entry, tier, distance, found_key, root)

    def rank(match: Match) -> tuple:
        other_lens = lens is not None and match.entry.provenance.lens != lens
        return match.tier, match.distance, other_lens, *match.entry.speed

    found = list(matches(_own_folders(roots, key, notes)))
    if not any(match.tier <= accept for match in found):
        found += matches(_other_folders(roots, key, notes))
    found.sort(key=rank)
    if found and found[0].tier <= accept:
        return found[0]
    raise NoRecordError(_miss(key, text, shape, space, accept, roots, found, notes))


def _tier(asked: TargetKey, found: TargetKey, distance: float) -> Tier:
    if found == asked:
        return Tier.NEAREST_SHAPE if distance else Tier.EXACT
    return Tier.FAMILY if found.family == asked.family else Tier.OTHER_TARGET


def _own_folders(
    roots: Sequence[Path], key: TargetKey, notes: list[str]
) -> Iterator[tuple[Path, TargetKey, RecordStore]]:
    for root in map(Path, roots):
        try:
            yield root, key, RecordStore.open(root, key)
        except DatabaseNotFoundError:
            if not root.is_dir():
                notes.append(f"{root} does not exist")


def _other_folders(
    roots: Sequence[Path], key: TargetKey, notes: list[str]
) -> Iterator[tuple[Path, TargetKey, RecordStore]]:
    for root in map(Path, roots):
        for folder in sorted(root.iterdir()) if root.is_dir() else ():
            try:
                other = TargetKey.parse(folder.name)
                if other.kind == key.kind and other != key:
                    yield root, other, RecordStore.open(root, other)
            except InvalidTargetKeyError:
                continue  # not a folder of records
            except PrefilltuneError as error:
                notes.append(f"skipped: {error}")


def _miss(
    key: TargetKey,
    spec: str,
    shape: PrefillShape,
    space: str | None,
    accept: Tier,
    roots: Sequence[Path],
    found: list[Match],
    notes: list[str],
) -> str:
    near = [
        f"{match.entry.provenance.shape} on {match.key} ({match.tier}, distance "
        f"{match.distance:.2f})"
        for match in found[:NEAREST_NAMED]
    ]
    return (
        f"no record for {spec} at {shape} on {key}"
        + (f" in space {space}" if space else "")
        + f" up to tier '{accept}'; searched {', '.join(map(str, roots)) or 'no folder'}"
        + (f" ({'; '.join(notes)})" if notes else "")
        + f"; nearest: {', '.join(near) or 'none of this spec'}"
        + "; run `prefilltune tune` for it"
        + (", or accept a farther tier" if near else "")
    )
