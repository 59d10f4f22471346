"""What searches went through: how the best fell, what failed, what the best have in common."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...database import Entry
from ..search.trial_log import Trial, read_trials

# What counts as a winner among trials: this share of the successes, the fastest.
_WINNERS = 0.1
# A best that fell by less is the same best.
_NOTICED = 0.002


@dataclass(frozen=True)
class SearchOfCase:
    """The trials of one case.

    Parameters
    ----------
    case : str
        The name of its log: spec, shape and lengths.
    trials : tuple of Trial
        In the order in which they were measured, of all searches for it.
    """

    case: str
    trials: tuple[Trial, ...]

    def falls(self) -> dict[str, list[list[float]]]:
        """The best so far of each space: trial of the search, seconds since it began, seconds.

        Each list begins with the first success and ends with the last trial of the space.
        """
        best: dict[str, float] = {}
        found: dict[str, list[list[float]]] = {}
        last: dict[str, list[float]] = {}
        for number, (elapsed, trial) in enumerate(self._timed(), 1):
            if trial.seconds < best.get(trial.space, float("inf")) * (1 - _NOTICED):
                best[trial.space] = trial.seconds
                found.setdefault(trial.space, []).append([number, elapsed, trial.seconds])
            if trial.space in best:
                last[trial.space] = [number, elapsed, best[trial.space]]
        return {space: _ended(points, last[space]) for space, points in found.items()}

    def failures(self) -> dict[str, int]:
        """How many trials failed, by kind."""
        return dict(Counter(each.failure for each in self.trials if each.failure).most_common())

    def _timed(self) -> Iterator[tuple[float, Trial]]:
        """Trials with the seconds that their search and those before it had taken by then."""
        before = reached = 0.0
        for trial in self.trials:
            if trial.elapsed < reached / 2:  # another search began
                before, reached = before + reached, 0.0
            reached = max(reached, trial.elapsed)
            yield round(before + reached, 2), trial


@dataclass(frozen=True)
class Habit:
    """How often a choice is made among the winners of a space, and among all.

    Parameters
    ----------
    space, choice, value : str
        Such as ``cuda_wgmma``, ``q_tile``, ``128``.
    winners : float
        A share, from 0 to 1, of the winners of the space.
    all : float or None
        Of all that were right; None where these are not known.
    """

    space: str
    choice: str
    value: str
    winners: float
    all: float | None


def searches_in(folder: Path) -> list[SearchOfCase]:
    """The searches whose trials a folder of records keeps, by name; none without."""
    logs = sorted((folder / "trials").glob("*.jsonl"))
    # A trace is long, and nothing here needs it.
    found = (
        SearchOfCase(log.stem, tuple(replace(each, trace=None) for each in read_trials(log)))
        for log in logs
    )
    return [each for each in found if each.trials]


def habits_of_trials(searches: Iterable[SearchOfCase]) -> list[Habit]:
    """What the fastest tenth of each search chose, beside what all successes did."""
    winners: list[tuple[str, Mapping[str, Any]]] = []
    everyone: list[tuple[str, Mapping[str, Any]]] = []
    for search in searches:
        right = sorted((each for each in search.trials if not each.failure), key=_seconds)
        chosen = [(each.space, each.variant) for each in right]
        everyone += chosen
        winners += chosen[: max(1, round(_WINNERS * len(chosen)))]
    return _habits(winners, everyone)


def habits_of_records(entries: Sequence[Entry]) -> list[Habit]:
    """What the fastest record of each workload chose; what others did is not known."""
    fastest: dict[tuple, Entry] = {}
    for each in sorted(entries, key=lambda entry: entry.speed, reverse=True):
        origin = each.provenance
        fastest[origin.spec, origin.shape, origin.lens] = each
    chosen = [(each.provenance.space, each.provenance.variant) for each in fastest.values()]
    return [replace(each, all=None) for each in _habits(chosen, chosen)]


def _habits(
    winners: Sequence[tuple[str, Mapping[str, Any]]],
    everyone: Sequence[tuple[str, Mapping[str, Any]]],
) -> list[Habit]:
    won, tried = _counts(winners), _counts(everyone)
    spaces_won, spaces = (Counter(space for space, _ in each) for each in (winners, everyone))
    return [
        Habit(
            space,
            choice,
            value,
            count / spaces_won[space],
            tried[space, choice, value] / spaces[space],
        )
        for (space, choice, value), count in sorted(
            won.items(), key=lambda each: (each[0][:2], -each[1], each[0][2])
        )
    ]


def _counts(
    chosen: Iterable[tuple[str, Mapping[str, Any]]],
) -> Counter[tuple[str, str, str]]:
    return Counter(
        (space, choice.replace("_", " "), json.dumps(value).strip('"'))
        for space, variant in chosen
        for choice, value in variant.items()
    )


def _seconds(trial: Trial) -> float:
    return trial.seconds


def _ended(points: list[list[float]], last: list[float]) -> list[list[float]]:
    return points if points[-1][0] == last[0] else [*points, last]
