"""The first points of an enumeration, found in another process than the search's."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

from .enumeration import Enumeration, shuffled_points
from .strategy import Proposal


class PickledModule:
    """A scheduled module on its way from the process that made it to the one that builds it.

    The process between them needs none of it.

    Parameters
    ----------
    payload : bytes
        Its pickle; a pickle of this object is read as the module.
    """

    def __init__(self, payload: bytes) -> None:
        self._payload = payload

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (self._payload,)


@dataclass(frozen=True)
class Sample:
    """The first points of an enumeration, from another process.

    Parameters
    ----------
    schedules : tuple[tuple[bytes, object], ...]
        Pickled module and trace of those whose schedules are valid.
    taken : int
        How many points they come from.
    """

    schedules: tuple[tuple[bytes, Any], ...]
    taken: int

    @property
    def proposals(self) -> list[Proposal]:
        """The candidates."""
        return [Proposal(PickledModule(payload), trace) for payload, trace in self.schedules]


def first_points(context: Any, seed: int, name: str, count: int) -> Sample | None:
    """What :func:`.make_strategy` would propose first; ``None`` for a space that is evolved."""
    points = shuffled_points(context.generate_design_space(), seed, name)
    if points is None:
        return None
    enumeration = Enumeration(context, points)
    schedules = tuple(
        (pickle.dumps(each.module), each.trace) for each in enumeration.propose(count)
    )
    return Sample(schedules, len(points) - enumeration.left)
