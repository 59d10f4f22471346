"""The record that a kernel for one shape is made of."""

from __future__ import annotations

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
    find = partial(databases.find, target.key, spec, shape, lens=lens, accept=accept, mend=tune)
    try:
        return find(same_shape=True)
    except NoRecordError as missing:
        if accept is Tier.EXACT:
            raise
        try:
            return find(space=[name for name, space in SPACES.items() if space.any_shape])
        except NoRecordError:
            raise missing from None
