"""The record that a kernel for one shape is made of."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

from ...database import Finder, Match, NoRecordError, Tier
from ...database.finder import accept_farther
from ...workloads import PrefillShape, PrefillSpec
from ..backends import backend_of
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
    find = partial(databases.find, target.key, spec, shape, lens=lens)
    match = _nearest(find, spec, accept)
    if match is None:
        runs = (tier for tier in Tier if accept < tier <= backend_of(target.kind).furthest)
        farther = (tier for tier in runs if _nearest(find, spec, tier) is not None)
        hints = [accept_farther(tier) for tier in farther][:1]
        mend = ", or ".join([*hints, tune])
        refuse = partial(find, accept=accept, same_shape=True, mend=mend)
        refuse()  # raises, unless what there is fits its own dtype alone
        return refuse(space=_of_any_shape())
    return match


def fits(space: str, tuned: PrefillSpec, spec: PrefillSpec) -> bool:
    """Whether a record of ``tuned`` in a design space serves a spec: some do in one dtype alone."""
    return tuned.dtype == spec.dtype or space in _of_any_shape()


def _of_any_shape() -> list[str]:
    return [name for name, space in SPACES.items() if space.any_shape]


def _nearest(find: Callable[..., Match], spec: PrefillSpec, accept: Tier) -> Match | None:
    fitting = _of_any_shape()
    same_shape = [{"same_shape": True}, {"same_shape": True, "space": fitting}]
    if accept is Tier.EXACT:
        searches = [{"accept": accept, **among} for among in same_shape]
    else:
        # A schedule for other vectors or another memory is further off than one for other lengths.
        searches = [
            {"accept": furthest, **among}
            for furthest in sorted({min(accept, Tier.PORTABLE), accept})
            for among in (*same_shape, {"space": fitting})
        ]
    for search in searches:
        with suppress(NoRecordError):
            match = find(**search)
            of = match.entry.provenance
            if fits(of.space, PrefillSpec.parse(of.spec), spec):
                return match
    return None
