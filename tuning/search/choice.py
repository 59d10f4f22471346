"""What is tried next: which variant has its turn, and which of its points it proposes.

Nothing else in a search decides on an order. Another rule, or a model that ranks points across
variants, takes the place of these two functions.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Protocol, TypeVar

# An arm whose best is within this share of the overall best is worth another turn; the share
# shrinks with the square root of the turns it has had.
_OPTIMISM = 0.25


class Prospect(Protocol):
    """What is known of an arm: seconds of its best candidate, turns it has had, is it used up."""

    best: float
    turns: int
    exhausted: bool


_Arm = TypeVar("_Arm", bound=Prospect)
_Point = TypeVar("_Point")


def next_arm(arms: Sequence[_Arm], turn: int) -> _Arm | None:
    """The first untried arm, or else the one with the best prospect; ``None`` if all are exhausted.

    An arm's prospect is its best time, less a bonus for having been tried little. In every second
    turn, one that has a success goes before the untried: good variants are refined before the last
    of many is tried.

    Parameters
    ----------
    turn : int
        How many turns were before.
    """
    waiting = [arm for arm in arms if not arm.exhausted]
    untried = [arm for arm in waiting if arm.turns == 0]
    tried = [arm for arm in waiting if arm.turns > 0]
    if untried and not (turn % 2 == 1 and any(math.isfinite(arm.best) for arm in tried)):
        return untried[0]
    return min(
        tried, key=lambda arm: arm.best * (1 - _OPTIMISM / math.sqrt(arm.turns)), default=None
    )


def next_points(left: deque[_Point], count: int) -> list[_Point]:
    """Take at most ``count`` points of an enumerated variant from those that are ``left``.

    They come as they were shuffled: near points do alike, so that a few from all over the space
    say more than its first ones.
    """
    return [left.popleft() for _ in range(min(count, len(left)))]
