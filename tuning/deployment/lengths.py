"""Which record serves the lengths that it was tuned on: there a kernel knows its lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...workloads import PrefillShape
from .boundaries import Leaf, Point, Tree, grow

#: ``(qo_len, kv_len)``
Lengths = tuple[int, int]


def lengths_of(shape: PrefillShape) -> Lengths:
    """A shape without its batch."""
    return shape.qo_len, shape.num_kv


def own_trees(
    tuned: Mapping[str, PrefillShape], points: Sequence[Point]
) -> dict[Lengths, Tree | None]:
    """Which records serve the lengths that records were tuned on, for every batch.

    Parameters
    ----------
    tuned : Mapping[str, PrefillShape]
        The shape of each record that serves one, by its id; one record a shape.
    points : Sequence[Point]
        Times of some of them: lengths that were tuned for on several batches ask these.

    Returns
    -------
    dict[Lengths, Tree or None]
        None where nothing was measured that tells several records apart.
    """
    of_lengths: dict[Lengths, list[str]] = {}
    for record, shape in tuned.items():
        of_lengths.setdefault(lengths_of(shape), []).append(record)
    return {
        lengths: Leaf(records[0])
        if len(records) == 1
        else _measured(records, [each for each in points if lengths_of(each.shape) == lengths])
        for lengths, records in sorted(of_lengths.items())
    }


def in_words(lengths: Lengths) -> str:
    """As a person writes it.

    >>> in_words((128, 128)), in_words((1, 128))
    ('qo_len = kv_len = 128', 'qo_len = 1, kv_len = 128')
    """
    qo_len, kv_len = lengths
    return f"qo_len = {'' if qo_len == kv_len else f'{qo_len}, '}kv_len = {kv_len}"


def _measured(records: Sequence[str], points: Sequence[Point]) -> Tree | None:
    """The tree of those records that were timed."""
    timed = [record for record in records if all(record in point.seconds for point in points)]
    return grow([point.among(timed) for point in points]) if points and timed else None
