"""The records that could serve a spec: the best of every shape and length distribution."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from ...database import Finder, Match, TargetKey, shape_distance
from ...database.finder import tier_for
from ...workloads import PrefillShape, PrefillSpec
from ..spaces import SPACES

_Key = TypeVar("_Key")


def candidates(databases: Finder, keys: Sequence[TargetKey], spec: PrefillSpec) -> dict[str, Match]:
    """The best record of every shape and length distribution whose trace fits any shape, by id.

    Parameters
    ----------
    keys : Sequence[TargetKey]
        The targets whose records serve side by side, the nearest first: what one has of a shape and
        a distribution, none behind it serves, unless it was timed for another spec.
    """
    found: dict[tuple[PrefillShape, str], Match] = {}
    for key in keys:
        found = _nearer(found, _of_target(databases, key, spec))
    return _by_id(found[each] for each in sorted(found, key=str))


def candidates_of_shape(
    databases: Finder,
    keys: Sequence[TargetKey],
    spec: PrefillSpec,
    shape: PrefillShape,
    fits: Callable[[str], bool],
) -> dict[str, Match]:
    """The best record of every length distribution of one shape, in spaces that fit, by id.

    Also those whose traces fit this shape alone.

    Parameters
    ----------
    keys
        As :func:`candidates` takes them.
    """
    found: dict[str, Match] = {}
    for key in keys:
        groups = databases.groups(key, spec)
        of_shape = {(lens, space) for each, lens, space in groups if each == shape and fits(space)}
        spaces = {space for _, space in of_shape}
        every = sorted({lens for lens, _ in of_shape})
        here = {lens: databases.find(key, spec, shape, lens=lens, space=spaces) for lens in every}
        found = _nearer(found, here)
    return _by_id(found.values())


def records_by_id(
    databases: Finder, keys: Sequence[TargetKey], records: Sequence[str]
) -> dict[str, Match]:
    """The records of these ids that any of some targets has, by id; the nearest target's first."""
    found: dict[str, Match] = {}
    for key in keys:
        found = {**databases.by_id(key, records), **found}
    return found


def shape_of(match: Match) -> PrefillShape:
    """The shape that a record was tuned on."""
    return PrefillShape.parse(match.entry.provenance.shape)


def fits_any_shape(match: Match) -> bool:
    """Whether the trace of a record schedules kernels for other shapes too."""
    space = SPACES.get(match.entry.provenance.space)
    return space is not None and space.any_shape


def seen_from(
    asked: TargetKey, found: Mapping[str, Match], shape: PrefillShape | None = None
) -> dict[str, Match]:
    """Matches with the tier that they have for the target that was asked for.

    Parameters
    ----------
    shape : PrefillShape, optional
        What was asked for, if the kernels are for one shape.
    """

    def seen(match: Match) -> Match:
        distance = 0.0 if shape is None else shape_distance(shape, shape_of(match))
        return replace(match, tier=tier_for(asked, match.key, distance), distance=distance)

    return {record: seen(match) for record, match in found.items()}


def _of_target(
    databases: Finder, key: TargetKey, spec: PrefillSpec
) -> dict[tuple[PrefillShape, str], Match]:
    """The best record of every shape and length distribution of one target."""
    found: dict[tuple[PrefillShape, str], Match] = {}
    for shape, lens, space in databases.groups(key, spec):
        if space in SPACES and SPACES[space].any_shape:
            match = databases.find(key, spec, shape, lens=lens, space=space)
            known = found.get((shape, lens))
            if known is None or match.entry.speed < known.entry.speed:
                found[shape, lens] = match
    return found


def _nearer(found: Mapping[_Key, Match], farther: Mapping[_Key, Match]) -> dict[_Key, Match]:
    """What was found with what a farther target has, where that is nearer to the spec."""

    def serves(key: _Key, match: Match) -> bool:
        return key not in found or (found[key].stands_in and not match.stands_in)

    return {**found, **{key: each for key, each in farther.items() if serves(key, each)}}


def _by_id(matches: Iterable[Match]) -> dict[str, Match]:
    return {match.entry.record_id: match for match in matches}
