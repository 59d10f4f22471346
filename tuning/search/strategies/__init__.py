"""Where the candidates of a variant come from: all of them in turn, or evolution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .enumeration import Enumeration, shuffled_points
from .evolution import Evolution
from .strategy import Proposal, Strategy

__all__ = ["Enumeration", "Evolution", "Proposal", "Strategy", "make_strategy"]


def make_strategy(
    context: Any,
    cost_model: Any,
    generation: int,
    seed: int,
    name: str,
    taken: int = 0,
    fixed: Callable[[], Any] | None = None,
) -> Strategy:
    """Enumerate a small design space, and evolve any other.

    Parameters
    ----------
    context : meta_schedule.TuneContext
        Of :func:`~.context.tune_context`, for one variant.
    cost_model : meta_schedule.CostModel
        For evolution.
    generation : int
        Candidates that evolution proposes at once.
    seed : int
        Of the order in which a space is enumerated.
    name : str
        Of the variant, for the log.
    taken : int
        Points of an enumeration that another process has proposed already.
    fixed : Callable[[], meta_schedule.TuneContext], optional
        Makes a context of the same variant with sizes that are numbers, where those of ``context``
        are variables: evolution wants numbers.
    """
    schedules = context.generate_design_space()
    points = shuffled_points(schedules, seed, name)
    if points is None:
        if fixed is None:
            return Evolution(context, schedules, cost_model, generation, name)
        bred = fixed()
        schedules = bred.generate_design_space()
        return Evolution(bred, schedules, cost_model, generation, name, onto=context.mod)
    return Enumeration(context, points[taken:])
