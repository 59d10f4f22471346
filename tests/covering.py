"""A few combinations of many factors, in which every two values of two factors meet."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any

_TRIED = 64


def covering(factors: Mapping[str, Sequence[Any]], seed: int = 0) -> list[dict[str, Any]]:
    """Combinations of one value of each factor, until every pair has met.

    Greedy, of combinations drawn at random the one that brings the most pairs together, as in
    Cohen et al., "The AETG system" (1997).

    >>> len(covering({"a": range(3), "b": range(3), "c": range(2)})) <= 12
    True
    """
    drawn = random.Random(seed)
    names = list(factors)
    missing = {
        ((one, i), (other, j))
        for one, other in itertools.combinations(names, 2)
        for i in range(len(factors[one]))
        for j in range(len(factors[other]))
    }

    def pairs(chosen: Mapping[str, int]) -> set[Any]:
        return set(itertools.combinations([(name, chosen[name]) for name in names], 2))

    found = []
    while missing:
        wanted = dict(min(missing))  # whatever is drawn, something is met
        candidates = [
            {name: drawn.randrange(len(factors[name])) for name in names} | wanted
            for _ in range(_TRIED)
        ]
        best = max(candidates, key=lambda each: len(missing & pairs(each)))
        missing -= pairs(best)
        found.append({name: factors[name][index] for name, index in best.items()})
    return found
