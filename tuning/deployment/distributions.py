"""Which record serves a shape that was tuned on several length distributions.

A schedule that is the best where every sequence is as long as the shape may not be the best where
they are not, and a kernel does not know what it will meet. So the record serves that loses least
over several distributions, where its time on each is known; else the one that was tuned without
padding, unless somebody asks for another. (A sweep need not have timed the very distributions that
were tuned on: what is without padding and what is mixed tells enough.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...database import Match, nearly_fastest, schedule_name
from ...database.provenance import FULL
from ...workloads import PrefillShape, parse_lengths
from ...workloads.lengths import UniformLengths
from .boundaries import Point
from .candidates import shape_of


@dataclass(frozen=True)
class Choice:
    """The record of a shape that serves it, of those for several length distributions.

    Parameters
    ----------
    shape : PrefillShape
        That they were tuned on.
    record : str
        Id of the one that serves.
    lens : str
        The distribution that it was tuned on.
    among : tuple[str, ...]
        The distributions that the shape was tuned on.
    why : str
        In words.
    """

    shape: PrefillShape
    record: str
    lens: str
    among: tuple[str, ...]
    why: str

    def as_data(self) -> dict[str, Any]:
        """All of it as JSON's types."""
        return {
            "shape": str(self.shape),
            "record": self.record,
            "lens": self.lens,
            "among": list(self.among),
            "why": self.why,
        }


def choose_distribution(
    found: Mapping[str, Match], measured: Iterable[Sequence[Point]] = (), lens: str = ""
) -> Choice:
    """Which of the records of one shape serves it.

    Parameters
    ----------
    found : Mapping[str, Match]
        The best record of each length distribution, by id.
    measured : Iterable[Sequence[Point]]
        Times of records, each sequence of one measuring; the first that tells these apart is
        asked. Points on other shapes say nothing here.
    lens : str
        The distribution that is asked for, as it is written for ``--lens``; the record that loses
        least over all of them when empty.
    """
    shape = shape_of(next(iter(found.values())))
    by_lens: dict[str, list[str]] = {}
    for record, match in found.items():
        by_lens.setdefault(match.entry.provenance.lens, []).append(record)
    among = tuple(sorted(by_lens))

    def chosen(records: Iterable[str], why: str) -> Choice:
        heads = nearly_fastest(found[each].entry.head for each in records)
        record = heads[0].record_id
        return Choice(shape, record, found[record].entry.provenance.lens, among, why)

    if len(among) == 1:
        return chosen(found, f"it was tuned on {among[0]} alone")
    asked = nearest_distribution(lens, among) if lens else None
    if asked is not None:
        return chosen(by_lens[asked], f"{lens} is asked for")
    no_such = f"none is of {lens}; " if lens else ""
    for points in measured:
        known = [
            each for each in points if each.shape == shape and found.keys() <= each.seconds.keys()
        ]
        timed_on = sorted({each.lens for each in known})
        if len(timed_on) > 1:
            losses = _losses(found, known)
            record, *others = sorted(losses, key=lambda each: (losses[each], each))
            theirs = ", ".join(
                f"{losses[each]:.1%} that of {found[each].entry.provenance.lens}" for each in others
            )
            why = (
                f"{no_such}where all were timed on {' and '.join(timed_on)}, it loses "
                f"{losses[record]:.1%} in the mean, {theirs}"
            )
            return chosen([record], why)
    why = f"{no_such}nothing was measured that says how the records do on the lengths of the others"
    return chosen(by_lens.get(FULL, list(found)), why)


def nearest_distribution(lens: str, among: Iterable[str]) -> str | None:
    """The distribution that is meant by a text: this one itself, or the nearest of its kind.

    Of uniform lengths the one with the nearest ends; of histograms that of the same name.

    Examples
    --------
    >>> nearest_distribution("uniform", ["full", "uniform:0.125-1", "uniform:0.5-1"])
    'uniform:0.125-1'
    >>> nearest_distribution("uniform", ["full", "fixed:9"]) is None
    True
    """
    among = list(among)
    if lens in among:
        return lens
    alike = [each for each in among if _kind(each) == _kind(lens)]
    return min(alike, key=lambda each: (_difference(lens, each), each), default=None)


def points_of_records(matches: Sequence[Match], found: Mapping[str, Match]) -> list[Point]:
    """What the records of one shape say of each other: a schedule that is one of several
    distributions was timed on each of them.

    Parameters
    ----------
    matches : Sequence[Match]
        Every record of the shape.
    found : Mapping[str, Match]
        Those to be told apart, by id.

    Returns
    -------
    list[Point]
        One for each distribution on which all of ``found`` were timed.
    """
    seconds: dict[str, dict[str, float]] = {}
    for match in matches:
        times = seconds.setdefault(match.entry.provenance.lens, {})
        name = schedule_of(match)
        times[name] = min(match.entry.provenance.median_secs, times.get(name, math.inf))
    schedules = {record: schedule_of(match) for record, match in found.items()}
    return [
        Point(
            shape_of(matches[0]),
            lens,
            {record: times[schedule] for record, schedule in schedules.items()},
        )
        for lens, times in seconds.items()
        if set(schedules.values()) <= times.keys()
    ]


def schedule_of(match: Match) -> str:
    """Equal for two records exactly if they are one kernel where sizes are learned at the call."""
    of = match.entry.provenance
    return schedule_name(of.space, of.variant, match.entry.trace)


def _losses(found: Mapping[str, Match], points: Sequence[Point]) -> dict[str, float]:
    """What each record loses to the best of them, in the geometric mean over points."""
    among = [point.among(list(found)) for point in points]
    return {
        record: math.expm1(
            math.fsum(math.log1p(point.loss(record)) for point in among) / len(among)
        )
        for record in found
    }


def _kind(lens: str) -> str:
    """What a distribution is one of: of histograms each name is a kind, of fixed lengths each."""
    kind, _, rest = lens.partition(":")
    if kind == "histogram":
        return f"{kind}:{rest.rpartition('-')[0]}"
    return lens if kind == "fixed" else kind


def _difference(one: str, other: str) -> float:
    """Of two distributions of one kind."""
    if _kind(one) != UniformLengths().text:
        return 0.0
    (low, high), (its_low, its_high) = (_ends(each) for each in (one, other))
    return abs(low - its_low) + abs(high - its_high)


def _ends(lens: str) -> tuple[float, float]:
    uniform = parse_lengths(lens)
    assert isinstance(uniform, UniformLengths)
    return float(uniform.low), float(uniform.high)
