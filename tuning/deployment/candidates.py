"""The records that could serve a spec: the best of every shape and length distribution."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from ...database import Finder, Match, TargetKey, shape_distance
from ...database.finder import tier_for
from ...workloads import PrefillShape, PrefillSpec
from ..spaces import SPACES


def candidates(databases: Finder, key: TargetKey, spec: PrefillSpec) -> dict[str, Match]:
    """The best record of every shape and length distribution whose trace fits any shape, by id."""
    found: dict[tuple[PrefillShape, str], Match] = {}
    for shape, lens, space in databases.groups(key, spec):
        if space in SPACES and SPACES[space].any_shape:
            match = databases.find(key, spec, shape, lens=lens, space=space)
            known = found.get((shape, lens))
            if known is None or match.entry.speed < known.entry.speed:
                found[shape, lens] = match
    return {match.entry.record_id: match for match in found.values()}


def candidates_of_shape(
    databases: Finder,
    key: TargetKey,
    spec: PrefillSpec,
    shape: PrefillShape,
    fits: Callable[[str], bool],
) -> dict[str, Match]:
    """The best record of every length distribution of one shape, in spaces that fit, by id.

    Also those whose traces fit this shape alone.
    """
    groups = databases.groups(key, spec)
    of_shape = {(lens, space) for each, lens, space in groups if each == shape and fits(space)}
    spaces = {space for _, space in of_shape}
    every = sorted({lens for lens, _ in of_shape})
    found = (databases.find(key, spec, shape, lens=lens, space=spaces) for lens in every)
    return {match.entry.record_id: match for match in found}


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
