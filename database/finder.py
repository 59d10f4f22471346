"""Find the record for a workload, and say how near it is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from enum import IntEnum
from pathlib import Path

from ..workloads.errors import PrefilltuneError
from ..workloads.shapes import PrefillShape
from ..workloads.spec import PrefillSpec
from .entry import BadLine, Entry, Head
from .errors import DatabaseNotFoundError, InvalidTargetKeyError, NoRecordError
from .folders import target_keys
from .provenance import FULL
from .store import RecordStore
from .target_key import TargetKey

NEAREST_NAMED = 5  # shapes or specs that the error of a miss names
NOISE_LIMIT = 0.05  # of the fastest median


class Tier(IntEnum):
    """How near a record is to what was asked for, the nearest first; always the same spec.

    But for the dtype of the LSE, whether padding is written, and packed sequences, which records of
    padded ones serve (:attr:`~prefilltune.workloads.PrefillSpec.same_kernels`), for windows that
    keep the same pairs of a shape (:meth:`~prefilltune.workloads.PrefillSpec.within`), and for
    another dtype, where a target has no record in the one that is asked for
    (:meth:`~prefilltune.database.TargetKey.dtypes_like`).

    Within a family, which is the first three, the nearer shape comes first, then what was timed for
    the spec and the lengths that are asked for, and of those the target's own record: a few own
    records add to those of other devices.
    """

    EXACT = 0
    """Same shape and target."""
    NEAREST_SHAPE = 1
    """Same target, another shape."""
    FAMILY = 2
    """Same kind and arch, another device; the same shape or the nearest."""
    PORTABLE = 3
    """Of a level that the machine has, the best before others; the same shape or the nearest."""
    OTHER_TARGET = 4
    """Same kind, another arch; the same shape or the nearest."""

    def __str__(self) -> str:
        return self.name.lower().replace("_", " ")

    @property
    def option(self) -> str:
        """What --accept and callers name it: one of :data:`ACCEPTED`."""
        return str(self).replace(" ", "-")


#: The tiers of other targets than the one at hand; records of other shapes come with any.
ACCEPTED = {
    tier.option: tier for tier in (Tier.EXACT, Tier.FAMILY, Tier.PORTABLE, Tier.OTHER_TARGET)
}
#: What is accepted besides: whatever the target runs.
NEAREST = "nearest"


def tier_for(asked: TargetKey, found: TargetKey, distance: float = 0.0) -> Tier:
    """How near records of a target are to what was asked for.

    Parameters
    ----------
    distance : float
        Of the shapes.
    """
    if found in asked.portable:
        return Tier.PORTABLE
    if found == asked:
        return Tier.NEAREST_SHAPE if distance else Tier.EXACT
    same_family = found.device and found.family == asked.family
    return Tier.FAMILY if same_family else Tier.OTHER_TARGET


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
    stands_in : bool
        Whether it was timed for another spec, and serves where there is none of this one.
    """

    entry: Entry
    tier: Tier
    distance: float
    key: TargetKey
    root: Path
    stands_in: bool = False

    @property
    def rank(self) -> tuple[Tier, float, Tier]:
        """The nearest first: of a family the nearest shape, and of one shape the target's own."""
        return _step(self.tier), _rounded(self.distance), self.tier


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


def nearly_fastest(heads: Iterable[Head]) -> list[Head]:
    """The fastest record, and those that measuring again might find faster.

    A record is nearly as fast as the fastest if their medians differ by no more than the larger
    of their spreads, and by no more than 5 %: a badly measured record is not a fast one.

    Returns
    -------
    list of Head
        By id, so that machines whose measurements differ by noise alone agree on the first.
    """
    heads = list(heads)
    fastest = min(heads, key=lambda head: head.speed)

    def is_near(head: Head) -> bool:
        noise = max(head.spread_secs, fastest.spread_secs)
        difference = head.median_secs - fastest.median_secs
        return difference <= min(noise, NOISE_LIMIT * fastest.median_secs)

    return sorted(filter(is_near, heads), key=lambda head: (head.record_id, head.median_secs))


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
    """Find the best record for ``spec`` on ``shape``: :meth:`Finder.find` of a new finder."""
    return Finder(roots).find(key, spec, shape, lens=lens, space=space, accept=accept)


class Finder:
    """Answers any number of look-ups, reading each folder once.

    Parameters
    ----------
    roots : Sequence[Path]
        Databases; a missing one counts as empty and is never made. What is written to them after
        their first look-up is not seen.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots = [Path(root) for root in roots]
        self._stores: dict[tuple[Path, TargetKey], RecordStore] = {}

    def find(
        self,
        key: TargetKey,
        spec: PrefillSpec,
        shape: PrefillShape,
        *,
        lens: str | None = None,
        space: str | Collection[str] | None = None,
        accept: Tier = Tier.EXACT,
        same_shape: bool = False,
        mend: str = "run `prefilltune tune` for it",
    ) -> Match:
        """Find the best record for ``spec`` on ``shape``.

        Parameters
        ----------
        key : TargetKey
            The machine at hand.
        spec : PrefillSpec
            What is computed.
        shape : PrefillShape
            On which sizes.
        lens : str, optional
            Length distribution to prefer; that without padding when absent.
        space : str or collection of str, optional
            The only design spaces to look into.
        accept : Tier
            The farthest tier that will do.
        same_shape : bool
            Whether records of other shapes will not do, on whatever target.
        mend : str
            What the error of a miss says to do about it, besides accepting a farther tier: who asks
            for ``same_shape`` knows by itself which one would do.

        Returns
        -------
        Match
            The nearest tier first, the target's own and its family's being one, of portable records
            those of the best level, then the smallest :func:`shape_distance` (to nine digits, the
            same on every machine), then what was timed for the spec itself, then ``lens``, then
            ``full``, since times of different lengths do not compare, then the target's own, then
            the first of :func:`nearly_fastest`; of one record in several databases, the faster,
            then that of the earlier root.

        Raises
        ------
        NoRecordError
            If there is none up to ``accept``; names what is near.
        VersionMismatchError, MalformedProvenanceError
            If the records of ``key`` itself cannot be used. Folders of other targets are only
            named.
        """
        notes: list[str] = []
        spaces = (space,) if isinstance(space, str) else space
        query = _Query(key, spec, shape, spaces)
        found = list(query.pools(self._own_stores(key, notes)))
        match = _nearest(found, accept, lens, same_shape)
        if match is None or accept >= Tier.FAMILY:
            found += query.pools(self._other_stores(key, notes, of_family=True))
            match = _nearest(found, accept, lens, same_shape)
        if match is None or match.tier > Tier.FAMILY:
            found += query.pools(self._other_stores(key, notes, of_family=False))
            match = _nearest(found, accept, lens, same_shape)
        if match is not None:
            return match
        notes += _problems(self._stores.values())
        farther = [each.tier for each in found if each.tier > accept]
        if farther and not same_shape:
            mend = f"{accept_farther(farther[0])}, or {mend}"
        if not found and (near := specs_in_words(self.specs_near(key, spec))):
            mend = f"{near}; {mend}"
        raise NoRecordError(_miss(query, accept, self.roots, found, notes, mend))

    def bad_lines(self, key: TargetKey) -> list[tuple[Path, BadLine]]:
        """What is no record in the folders of a target, with its file; parses every line.

        Raises
        ------
        VersionMismatchError, MalformedProvenanceError
            As :meth:`find`.
        """
        return [
            (store.folder / bad.file, bad)
            for _, store in self._own_stores(key, [])
            for bad in store.problems
        ]

    def workloads(self, key: TargetKey) -> set[tuple[str, str]]:
        """Spec and shape of every record of a target, as text.

        Raises
        ------
        VersionMismatchError, MalformedProvenanceError
            As :meth:`find`.
        """
        return {each for _, store in self._own_stores(key, []) for each in store.workloads}

    def specs_near(self, key: TargetKey, spec: PrefillSpec) -> list[PrefillSpec]:
        """Specs with the same heads that have records of a target, the most alike first.

        Their records serve no call of ``spec``; a search for it starts from what they found.

        Raises
        ------
        VersionMismatchError, MalformedProvenanceError
            As :meth:`find`.
        """
        asked = asdict(spec)
        heads = ("num_qo_heads", "num_kv_heads", "head_dim")
        found: list[tuple[int, str]] = []
        for text in {text for text, _ in self.workloads(key)}:
            if (known := PrefillSpec.known(text)) is None:
                continue
            other = asdict(known)
            if all(asked[name] == other[name] for name in heads):
                found.append((sum(asked[name] != other[name] for name in asked), text))
        return [PrefillSpec.parse(text) for _, text in sorted(found)[:NEAREST_NAMED]]

    def groups(self, key: TargetKey, spec: PrefillSpec) -> list[tuple[PrefillShape, str, str]]:
        """Shape, length distribution and design space of every record of a spec, once each.

        Those of another spec are of this one where it amounts to the same in their shape.

        Raises
        ------
        VersionMismatchError, MalformedProvenanceError
            As :meth:`find`.
        """
        found = {
            (PrefillShape.parse(text), head.lens, head.space)
            for _, store in self._own_stores(key, [])
            for text, heads in _heads(store, spec).items()
            for head in heads
        }
        return sorted(found, key=str)

    def by_id(self, key: TargetKey, records: Iterable[str]) -> dict[str, Match]:
        """The records of these ids that there are, by id; also those that others outdo.

        Raises
        ------
        VersionMismatchError, MalformedProvenanceError
            As :meth:`find`.
        """
        found: dict[str, Match] = {}
        for root, store in self._own_stores(key, []):
            for record in records:
                if record not in found and (entry := store.entry(record)):
                    found[record] = Match(entry, Tier.EXACT, 0.0, key, root)
        return found

    def all_of(self, key: TargetKey, spec: PrefillSpec, shape: PrefillShape) -> list[Match]:
        """Every record of a workload on a target, also those that others outdo.

        Raises
        ------
        VersionMismatchError, MalformedProvenanceError
            As :meth:`find`.
        """
        ids = [
            head.record_id
            for _, store in self._own_stores(key, [])
            for head in _heads(store, spec).get(str(shape), ())
        ]
        return list(self.by_id(key, dict.fromkeys(ids)).values())

    def targets(self, key: TargetKey, accept: Tier) -> list[TargetKey]:
        """The targets whose records a tier takes, the nearest first: ``key`` itself is one.

        Unless it is a level, as that of a GPU which is elsewhere and named by its architecture
        alone: what was timed for a level is portable.
        """
        others = {each for each in self._keys() if each.kind == key.kind}
        nearness = {each: tier_for(key, each) for each in {_without_levels(key), *others}}
        taken = [each for each, tier in nearness.items() if tier <= accept]
        return sorted(taken, key=lambda each: (nearness[each], _level(key, each), str(each)))

    def families(self, key: TargetKey, accept: Tier) -> list[list[TargetKey]]:
        """As :meth:`targets`, with the devices of the target's family in one list.

        Their records serve side by side; those of farther targets, where a nearer one has none.
        """
        keys = self.targets(key, accept)
        family = [each for each in keys if tier_for(key, each) <= Tier.FAMILY]
        farther = [[each] for each in keys if each not in family]
        return [family, *farther] if family else farther

    def readable(
        self, asked: TargetKey, keys: Sequence[TargetKey]
    ) -> tuple[list[TargetKey], list[PrefilltuneError]]:
        """The targets whose records can be read, and why those of others cannot.

        Raises
        ------
        VersionMismatchError, MalformedProvenanceError
            If those of the target that was asked for cannot.
        """
        found, errors = [], []
        for key in keys:
            try:
                self.workloads(key)
            except PrefilltuneError as error:
                if key == asked:
                    raise
                errors.append(error)
            else:
                found.append(key)
        return found, errors

    def stores(self, key: TargetKey, accept: Tier) -> Iterator[RecordStore]:
        """What holds the records of :meth:`targets`; what cannot be read is left out."""
        for each in self.targets(key, accept):
            for root in self.roots:
                with suppress(PrefilltuneError):
                    yield self._store(root, each)

    def _keys(self) -> set[TargetKey]:
        return {each for root in self.roots if root.is_dir() for each in target_keys(root)}

    def _own_stores(self, key: TargetKey, notes: list[str]) -> Iterator[tuple[Path, RecordStore]]:
        for root in self.roots:
            try:
                yield root, self._store(root, key)
            except DatabaseNotFoundError:
                if not root.is_dir():
                    notes.append(f"{root} does not exist")

    def _other_stores(
        self, key: TargetKey, notes: list[str], *, of_family: bool
    ) -> Iterator[tuple[Path, RecordStore]]:
        """Those of the other devices of the target's family, or of farther targets."""
        for root in self.roots:
            for folder in sorted(root.iterdir()) if root.is_dir() else ():
                try:
                    other = TargetKey.parse(folder.name)
                    is_of_family = tier_for(key, other) is Tier.FAMILY
                    if other.kind == key.kind and other != key and is_of_family == of_family:
                        yield root, self._store(root, other)
                except InvalidTargetKeyError:
                    continue  # not a folder of records
                except PrefilltuneError as error:
                    notes.append(f"skipped: {error}")

    def _store(self, root: Path, key: TargetKey) -> RecordStore:
        if (root, key) not in self._stores:
            self._stores[root, key] = RecordStore.open(root, _without_levels(key))
        return self._stores[root, key]


def _without_levels(key: TargetKey) -> TargetKey:
    """A target as its folder is named, of which no other records are meant."""
    return replace(key, levels=())


def accept_farther(tier: Tier) -> str:
    """What an error says of records that a farther tier takes.

    Examples
    --------
    >>> accept_farther(Tier.NEAREST_SHAPE)  # no option of its own
    "accept the tier 'family' (--accept family)"
    """
    tier = max(tier, Tier.FAMILY)
    return f"accept the tier '{tier}' ({accept_option(tier)})"


def accept_option(tier: Tier) -> str:
    """The option of commands that accepts a tier.

    >>> accept_option(Tier.OTHER_TARGET)
    '--accept other-target'
    """
    return f"--accept {tier.option}"


def specs_in_words(near: Sequence[PrefillSpec]) -> str:
    """What an error says of :meth:`Finder.specs_near`; nothing if there are none."""
    if not near:
        return ""
    named = ", ".join(map(str, near))
    return f"with these heads there are records of {named}, and a record serves its own spec alone"


@dataclass(frozen=True)
class _Pool:
    """Records of one spec, shape and target that a look-up may take."""

    tier: Tier
    distance: float
    shape: str
    heads: list[Head]
    root: Path
    store: RecordStore

    level: int
    stands_in: bool

    @property
    def rank(self) -> tuple[Tier, int, float, bool]:
        """The nearest first, and the best level before nearer shapes; of a family all are equal."""
        return _step(self.tier), self.level, _rounded(self.distance), self.stands_in

    def match(self, entry: Entry) -> Match:
        """One of its records."""
        return Match(entry, self.tier, self.distance, self.store.key, self.root, self.stands_in)


@dataclass(frozen=True)
class _Query:
    key: TargetKey
    spec: PrefillSpec
    shape: PrefillShape
    spaces: Collection[str] | None

    def pools(self, stores: Iterable[tuple[Path, RecordStore]]) -> Iterator[_Pool]:
        for root, store in stores:
            own, others = _own_and_others(store, self.spec, self.shape)
            for text, heads in {**others, **own}.items():
                if self.spaces is not None:
                    heads = [head for head in heads if head.space in self.spaces]
                if heads:
                    distance = shape_distance(self.shape, PrefillShape.parse(text))
                    tier = tier_for(self.key, store.key, distance)
                    level = _level(self.key, store.key)
                    yield _Pool(tier, distance, text, heads, root, store, level, text not in own)


def _heads(store: RecordStore, spec: PrefillSpec) -> dict[str, list[Head]]:
    """Records that serve a spec, by shape."""
    own, others = _own_and_others(store, spec)
    return {**others, **own}


def _own_and_others(
    store: RecordStore, spec: PrefillSpec, shape: PrefillShape | None = None
) -> tuple[dict[str, list[Head]], dict[str, list[Head]]]:
    """Records by shape; where there are none of its own dtype, the second are of another one.

    That is the first of :meth:`TargetKey.dtypes_like` which has some.

    Parameters
    ----------
    shape : PrefillShape, optional
        As :func:`_of_dtype` takes it.
    """
    own, others = _of_dtype(store, spec, shape)
    for dtype in store.key.dtypes_like(spec.dtype):
        if own or others:
            break
        alike, less_alike = _of_dtype(store, spec.in_dtype(dtype), shape)
        others = {**less_alike, **alike}
    return own, others


def _of_dtype(
    store: RecordStore, spec: PrefillSpec, shape: PrefillShape | None
) -> tuple[dict[str, list[Head]], dict[str, list[Head]]]:
    """Records by shape, of whatever LSE: a trace knows nothing of its dtype.

    Nor does one know whether padding is written, and its decisions are good for packed sequences
    too; but times know both, so that records which differ in that, the second, stand for a shape
    that has no others. Of windows that amount to the same in the shape of a record, its time is of
    either.

    Parameters
    ----------
    shape : PrefillShape, optional
        What is asked for: the first are then of what ``spec`` amounts to there, and among the
        second are those of ``spec`` itself whose window hides more where they were tuned.
    """
    asked = spec.window if shape is None else spec.within(shape).window
    own: dict[str, list[Head]] = {}
    others: dict[str, list[Head]] = {}
    for each in spec.same_kernels:
        alike = (each.layout, each.padding_output) == (spec.layout, spec.padding_output)
        meant = replace(each, window=asked)
        for recorded in store.alike(each):
            for text, heads in store.heads(str(recorded)).items():
                there = PrefillShape.parse(text)
                same = recorded.within(there) == meant.within(there)
                if same or recorded == each:
                    found = own if same and alike else others
                    found.setdefault(text, []).extend(heads)
    return own, others


def _step(tier: Tier) -> Tier:
    """The tiers among which shapes decide first: those of a family are one.

    Devices of one arch run the same code about as fast, and schedules are made for a shape.
    """
    return max(tier, Tier.FAMILY)


def _rounded(distance: float) -> float:
    """Without the digits that depend on a machine's ``log2``."""
    return round(distance, 9)


def _level(asked: TargetKey, found: TargetKey) -> int:
    """How many of the levels of a machine are better than that of a record."""
    return asked.portable.index(found) if found in asked.portable else 0


def _nearest(pools: list[_Pool], accept: Tier, lens: str | None, same_shape: bool) -> Match | None:
    """The best record of the nearest pools that have an intact one; sorts the pools."""
    pools.sort(key=lambda pool: pool.rank)
    for _, equal in itertools.groupby(pools, key=lambda pool: pool.rank):
        near = [
            pool for pool in equal if pool.tier <= accept and not (same_shape and pool.distance)
        ]
        if match := _best(near, lens):
            return match
    return None


def _best(pools: Sequence[_Pool], lens: str | None) -> Match | None:
    """The best record of pools of one rank whose line is intact."""
    preferred = dict.fromkeys((lens or FULL, FULL))
    tiers = sorted({pool.tier for pool in pools})  # of a family the own target first
    for wanted, tier in itertools.product((*preferred, None), tiers):
        left = [
            (head, pool)
            for pool in pools
            for head in pool.heads
            if pool.tier is tier and (head.lens == wanted if wanted else head.lens not in preferred)
        ]
        while left:
            head = nearly_fastest(head for head, _ in left)[0]
            position, pool = next((i, pool) for i, (each, pool) in enumerate(left) if each == head)
            if entry := pool.store.entry(head.record_id):
                return pool.match(entry)
            del left[position]  # a bad line, which the store reports from now on
    return None


def _problems(stores: Iterable[RecordStore]) -> list[str]:
    return [
        f"{len(store.noticed)} bad lines in {store.folder}" for store in stores if store.noticed
    ]


def _miss(
    query: _Query,
    accept: Tier,
    roots: Sequence[Path],
    found: list[_Pool],
    notes: list[str],
    mend: str,
) -> str:
    near = [
        f"{pool.shape} on {pool.store.key} ({pool.tier}, distance {pool.distance:.2f})"
        for pool in found[:NEAREST_NAMED]
    ]
    return (
        f"no record for {query.spec} at {query.shape} on {query.key}"
        + (f" in space {' or '.join(sorted(query.spaces))}" if query.spaces else "")
        + f" up to tier '{accept}'; searched {', '.join(map(str, roots)) or 'no folder'}"
        + (f" ({'; '.join(notes)})" if notes else "")
        + f"; nearest: {', '.join(near) or 'none of this spec'}"
        + f"; {mend}"
    )
