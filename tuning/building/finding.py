"""The record that a kernel for one shape is made of."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from ...database import Finder, Match, NoRecordError, Tier
from ...workloads import PrefillShape, PrefillSpec
from ..backends.commands import advice
from ..spaces import SPACES
from ..target import ResolvedTarget


def find_record(
    databases: Finder,
    target: ResolvedTarget,
    spec: PrefillSpec,
    shape: PrefillShape,
    *,
    accept: Tier,
    lens: str | None = None,
) -> Match:
    """Find the nearest record of a shape; where there is none, one of another shape that fits it.

    Records of other targets come behind those of other shapes.

    Parameters
    ----------
    accept : Tier
        The furthest that will do; ``EXACT`` takes no record of another shape.
    lens : str, optional
        As :meth:`~prefilltune.database.Finder.find` takes it.

    Raises
    ------
    NoRecordError
        If none will do; ends in the command that makes one.
    """
    tune = advice("tune", target, spec, shape, database=databases.roots[0])
    find = partial(databases.find, target.key, spec, shape, lens=lens, mend=tune)
    if accept is Tier.EXACT:
        return find(accept=accept, same_shape=True)
    fitting = [name for name, space in SPACES.items() if space.any_shape]
    # A schedule for other vectors or another memory is further off than one for other lengths.
    for furthest in sorted({min(accept, Tier.PORTABLE), accept}):
        with suppress(NoRecordError):
            return find(accept=furthest, same_shape=True)
        with suppress(NoRecordError):
            return find(accept=furthest, space=fitting)
    return find(accept=accept, same_shape=True)
