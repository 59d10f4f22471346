"""Every point of a small design space, once."""

from __future__ import annotations

import itertools
import logging
import math
import pickle
import random
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ....database import trace_to_json
from ..choice import next_points
from ..trial_log import Trial
from .strategy import Proposal

_LOGGER = logging.getLogger(__name__)

# A variant with no more points than this is enumerated: evolution replays some hundred schedules
# for each batch, and hundreds more before it believes that a small space is exhausted.
_FEW_POINTS = 256

#: A trace of the space and the decisions that make it one schedule.
Point = tuple[Any, dict[Any, int]]


class Enumeration:
    """Every point of a small design space, once.

    Parameters
    ----------
    context : meta_schedule.TuneContext
        Has the module and the post-processors.
    points : Sequence[tuple[Trace, dict[Instruction, int]]]
        A trace and its decisions each, in the order of being proposed.
    """

    def __init__(self, context: Any, points: Sequence[Point]) -> None:
        self._context = context
        self._left = deque(points)
        # Threads that schedule the same module hold one another up by counting its references.
        self._modules = [context.mod]

    def propose(self, count: int) -> list[Proposal]:
        """The next points whose schedules are valid."""
        valid: list[Proposal] = []
        while self._left and len(valid) < count:
            points = next_points(self._left, count - len(valid))
            valid += [each for each in self._replay_all(points) if each is not None]
        return valid

    @property
    def left(self) -> int:
        """Points that are still to be proposed."""
        return len(self._left)

    def restore(self, trials: Sequence[Trial]) -> None:
        """Nothing to do: points that were measured are recognised when their turn comes."""

    def learn(self, proposals: Sequence[Proposal], run_secs: Sequence[tuple[float, ...]]) -> None:
        """Nothing to do: every point has its turn."""

    def _replay_all(self, points: Sequence[Point]) -> list[Proposal | None]:
        """Replay points side by side, on as many threads as the context has."""
        threads = min(self._context.num_threads, len(points))
        while len(self._modules) < threads:
            self._modules.append(pickle.loads(pickle.dumps(self._context.mod)))
        found: list[Proposal | None] = [None] * len(points)

        def replay_share(first: int) -> None:
            for index in range(first, len(points), threads):
                found[index] = self._replay(self._modules[first], *points[index])

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(replay_share, range(threads)))
        return found

    def _replay(self, module: Any, trace: Any, decisions: dict[Any, int]) -> Proposal | None:
        from tvm.s_tir import Schedule
        from tvm.s_tir.schedule import ScheduleError, Trace

        schedule = Schedule(module)
        try:
            Trace(trace.insts, decisions).apply_to_schedule(schedule, remove_postproc=True)
        except ScheduleError as error:
            _LOGGER.info("a point of the space has no schedule: %s", error)
            return None
        except Exception as error:  # TVM raises any Python class, by the name its C++ gives
            _LOGGER.warning("a point of the space could not be scheduled: %s", error)
            return None
        schedule.enter_postproc()
        postprocs = self._context.space_generator.postprocs or ()
        if not all(postproc.apply(schedule) for postproc in postprocs):
            return None
        assert schedule.trace is not None
        return Proposal(schedule.mod, trace_to_json(schedule.trace))


def shuffled_points(schedules: Sequence[Any], seed: int, name: str) -> list[Point] | None:
    """All points of a small design space, in the order of ``seed``; ``None`` for any other.

    Parameters
    ----------
    schedules : Sequence[Schedule]
        The design space: each stands for all choices of its decisions.
    name : str
        Of the variant, so that variants have orders of their own.
    """
    found: list[Point] = []
    for schedule in schedules:
        trace = schedule.trace.simplified(True)
        choices = _choices(trace)
        if choices is None:
            return None
        found += [(trace, decisions) for decisions in choices]
    if len(found) > _FEW_POINTS:
        return None
    random.Random(f"{seed} {name}").shuffle(found)
    return found


def _choices(trace: Any) -> list[dict[Any, int]] | None:
    """Every choice of decisions, if there are few and all are categories; else ``None``."""
    # In the order of the trace: that of the decisions differs from process to process.
    sampled = [each for each in trace.insts if each in trace.decisions]
    if any(each.kind.name != "SampleCategorical" for each in sampled):
        return None
    categories = [range(len(each.attrs[0])) for each in sampled]
    if math.prod(map(len, categories)) > _FEW_POINTS:
        return None
    return [dict(zip(sampled, chosen, strict=True)) for chosen in itertools.product(*categories)]
