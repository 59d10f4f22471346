"""Which record serves the lengths that it was tuned on: there a kernel knows its lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...database import Match, nearly_fastest
from ...database.provenance import FULL
from ...workloads import PrefillShape
from .boundaries import Leaf, Point, Tree, grow

#: ``(qo_len, kv_len)``
Lengths = tuple[int, int]


def lengths_of(shape: PrefillShape) -> Lengths:
    """A shape without its batch."""
    return shape.qo_len, shape.num_kv


def own_trees(
    found: Mapping[str, Match], points: Sequence[Point] = ()
) -> dict[Lengths, Tree | None]:
    """Which records serve the lengths that records were tuned on, for every batch.

    Parameters
    ----------
    found : Mapping[str, Match]
        The records, by id. Of several for one shape serves the one that a look-up takes.
    points : Sequence[Point]
        Times of some of them: lengths that were tuned for on several batches ask these.

    Returns
    -------
    dict[Lengths, Tree or None]
        None where nothing was measured that tells several records apart.
    """
    tuned: dict[Lengths, list[str]] = {}
    for shape, record in _looked_up(found).items():
        tuned.setdefault(lengths_of(shape), []).append(record)
    return {
        lengths: Leaf(records[0])
        if len(records) == 1
        else _measured(records, [each for each in points if lengths_of(each.shape) == lengths])
        for lengths, records in sorted(tuned.items())
    }


def in_words(lengths: Lengths) -> str:
    """As a person writes it.

    >>> in_words((128, 128)), in_words((1, 128))
    ('qo_len = kv_len = 128', 'qo_len = 1, kv_len = 128')
    """
    qo_len, kv_len = lengths
    return f"qo_len = {'' if qo_len == kv_len else f'{qo_len}, '}kv_len = {kv_len}"


def _looked_up(found: Mapping[str, Match]) -> dict[PrefillShape, str]:
    """The record that a look-up takes that asks for no length distribution, by shape."""
    shapes: dict[PrefillShape, list[Match]] = {}
    for match in found.values():
        shape = PrefillShape.parse(match.entry.provenance.shape)
        shapes.setdefault(shape, []).append(match)
    chosen = {}
    for shape, matches in shapes.items():
        full = [match for match in matches if match.entry.provenance.lens == FULL]
        heads = nearly_fastest(match.entry.head for match in full or matches)
        chosen[shape] = heads[0].record_id
    return chosen


def _measured(records: Sequence[str], points: Sequence[Point]) -> Tree | None:
    """The tree of those records that were timed, by the times without padding if there are any."""
    full = [point for point in points if point.lens == FULL] or points
    timed = [record for record in records if all(record in point.seconds for point in full)]
    return grow([point.among(timed) for point in full]) if full and timed else None
