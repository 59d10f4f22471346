"""Where the candidates of a variant come from: all of them in turn, or evolution."""

from __future__ import annotations

import itertools
import logging
import math
import pickle
import random
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from ...database import trace_to_json
from ..spaces import DesignSpace
from .trial_log import Trial

_LOGGER = logging.getLogger(__name__)

# A variant with no more points than this is enumerated: evolution replays some hundred schedules
# for each batch, and hundreds more before it believes that a small space is exhausted.
_FEW_POINTS = 256

# MetaSchedule's defaults evolve 512 schedules four times for a batch of 64, half a minute on two
# cores; spaces of a few thousand points and batches of 8 need no more than this.
_POPULATION = {"population_size": 32, "init_min_unmeasured": 16, "genetic_num_iters": 2}
_UNBOUNDED_TRIALS = 1 << 20

#: Of a space that is enumerated: a trace and its decisions.
_Point = tuple[Any, dict[Any, int]]


@dataclass(frozen=True)
class Proposal:
    """A candidate.

    Parameters
    ----------
    module : tvm.IRModule or PickledModule
        Scheduled.
    trace : object
        Of the schedule, in MetaSchedule's JSON.
    candidate : meta_schedule.MeasureCandidate, optional
        What evolution learns from.
    """

    module: Any
    trace: Any
    candidate: Any = None


class Proposer(Protocol):
    """A source of candidates that may learn from what became of them."""

    def propose(self, count: int) -> list[Proposal]:
        """The next candidates, about ``count``; empty once there are no more."""
        ...

    def restore(self, trials: Sequence[Trial]) -> None:
        """Take over trials of an earlier search."""
        ...

    def learn(self, proposals: Sequence[Proposal], run_secs: Sequence[tuple[float, ...]]) -> None:
        """Hear how candidates did; no times for a failure."""
        ...


def make_proposer(
    context: Any, cost_model: Any, batch: int, seed: int, name: str, taken: int = 0
) -> Proposer:
    """Enumerate a small design space, and evolve any other.

    Parameters
    ----------
    context : meta_schedule.TuneContext
        Initialised, of one variant.
    cost_model : meta_schedule.CostModel
        For evolution.
    batch : int
        Candidates that evolution proposes at once.
    seed : int
        Of the order in which a space is enumerated.
    name : str
        Of the variant, for the log.
    taken : int
        Points that were enumerated elsewhere.
    """
    schedules = context.generate_design_space()
    points = _shuffled_points(schedules, seed, name)
    if points is None:
        return Evolution(context, schedules, cost_model, batch, name)
    return Enumeration(context, points[taken:])


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
    """What :func:`make_proposer` would propose first; ``None`` for a space that is evolved."""
    points = _shuffled_points(context.generate_design_space(), seed, name)
    if points is None:
        return None
    enumeration = Enumeration(context, points)
    schedules = tuple(
        (pickle.dumps(each.module), each.trace) for each in enumeration.propose(count)
    )
    return Sample(schedules, len(points) - enumeration.left)


def _shuffled_points(schedules: Sequence[Any], seed: int, name: str) -> list[_Point] | None:
    """All points of a small design space; ``None`` for any other."""
    spaces = [schedule.trace.simplified(True) for schedule in schedules]
    points = [_points(trace) for trace in spaces]
    if any(each is None for each in points):
        return None
    everything = [
        (trace, point) for trace, each in zip(spaces, points, strict=True) for point in each or ()
    ]
    if len(everything) > _FEW_POINTS:
        return None
    random.Random(f"{seed} {name}").shuffle(everything)
    return everything


def _points(trace: Any) -> list[dict[Any, int]] | None:
    """Every choice of decisions, if there are few and all are categories; else ``None``."""
    # In the order of the trace: that of the decisions differs from process to process.
    sampled = [each for each in trace.insts if each in trace.decisions]
    if any(each.kind.name != "SampleCategorical" for each in sampled):
        return None
    choices = [range(len(each.attrs[0])) for each in sampled]
    if math.prod(map(len, choices)) > _FEW_POINTS:
        return None
    return [dict(zip(sampled, point, strict=True)) for point in itertools.product(*choices)]


class Enumeration:
    """Every point of a small design space, once.

    Parameters
    ----------
    context : meta_schedule.TuneContext
        Has the module and the post-processors.
    points : Sequence[tuple[Trace, dict[Instruction, int]]]
        A trace and its decisions each, in the order of being proposed.
    """

    def __init__(self, context: Any, points: Sequence[_Point]) -> None:
        self._context = context
        self._left = deque(points)
        # Threads that schedule the same module hold one another up by counting its references.
        self._modules = [context.mod]

    def propose(self, count: int) -> list[Proposal]:
        """The next points whose schedules are valid."""
        valid: list[Proposal] = []
        while self._left and len(valid) < count:
            few = min(count - len(valid), len(self._left))
            points = [self._left.popleft() for _ in range(few)]
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

    def _replay_all(self, points: Sequence[_Point]) -> list[Proposal | None]:
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


class Evolution:
    """MetaSchedule's evolutionary search, guided by its cost model.

    Parameters
    ----------
    context : meta_schedule.TuneContext
        Initialised with an evolutionary search.
    schedules : Sequence[Schedule]
        The design space.
    cost_model : meta_schedule.CostModel
        Shared by the variants of a search: it tells their workloads apart.
    batch : int
        Candidates a proposal.
    name : str
        Of the variant, for the log.
    """

    def __init__(
        self, context: Any, schedules: Sequence[Any], cost_model: Any, batch: int, name: str
    ) -> None:
        from tvm.s_tir.meta_schedule.database import MemoryDatabase

        self._context = context
        self._cost_model = cost_model
        self._name = name
        self._database = MemoryDatabase()
        self._workload = self._database.commit_workload(context.mod)
        context.pre_tuning(
            max_trials=_UNBOUNDED_TRIALS,
            num_trials_per_iter=batch,
            design_spaces=schedules,
            database=self._database,
            cost_model=cost_model,
        )

    def propose(self, count: int) -> list[Proposal]:
        """The next batch, of the size given at the start."""
        candidates = self._context.generate_measure_candidates() or ()
        return [Proposal(each.sch.mod, trace_to_json(each.sch.trace), each) for each in candidates]

    def restore(self, trials: Sequence[Trial]) -> None:
        """Replay trials, for the population and the cost model to start from."""
        from tvm.s_tir import Schedule
        from tvm.s_tir.schedule import Trace

        proposals, secs = [], []
        for trial in trials:
            schedule = Schedule(self._context.mod)
            try:
                Trace.apply_json_to_schedule(trial.trace, schedule)
            except Exception as error:  # TVM raises any Python class, by the name its C++ gives
                _LOGGER.warning("a logged trial of %s replays no more: %s", self._name, error)
                continue
            candidate = _measure_candidate(schedule)
            proposals.append(Proposal(schedule.mod, trial.trace, candidate))
            secs.append(trial.run_secs)
        if proposals:
            self._remember(proposals, secs)

    def learn(self, proposals: Sequence[Proposal], run_secs: Sequence[tuple[float, ...]]) -> None:
        """Tell the search, and train the cost model."""
        from tvm.s_tir.meta_schedule.runner import RunnerResult

        self._context.notify_runner_results(
            [each.candidate for each in proposals],
            [RunnerResult(list(secs) or None, None if secs else "failed") for secs in run_secs],
        )
        self._remember(proposals, run_secs)

    def _remember(
        self, proposals: Sequence[Proposal], run_secs: Sequence[tuple[float, ...]]
    ) -> None:
        from tvm.s_tir.meta_schedule.database import TuningRecord
        from tvm.s_tir.meta_schedule.runner import RunnerResult

        measured = [(each, secs) for each, secs in zip(proposals, run_secs, strict=True) if secs]
        for proposal, secs in measured:
            self._database.commit_tuning_record(
                TuningRecord(
                    proposal.candidate.sch.trace,
                    self._workload,
                    list(secs),
                    self._context.target,
                    proposal.candidate.args_info,
                )
            )
        if measured:
            self._cost_model.update(
                self._context,
                [proposal.candidate for proposal, _ in measured],
                [RunnerResult(list(secs), None) for _, secs in measured],
            )


def tune_context(
    module: Any,
    target: Any,
    generator: Any,
    name: str,
    threads: int,
    seed: int,
    patience: int = DesignSpace.patience,
) -> Any:
    """A TuneContext made without its Python constructor, which imports every tensor intrinsic.

    Parameters
    ----------
    patience : int
        Rounds of sampling without a valid schedule that evolution bears with.
    """
    from tvm.s_tir.meta_schedule import _ffi_api
    from tvm.s_tir.meta_schedule.logging import get_logging_func
    from tvm.s_tir.meta_schedule.search_strategy import EvolutionarySearch

    context = _ffi_api.TuneContext(  # pyright: ignore[reportAttributeAccessIssue]
        module,
        target,
        generator,
        EvolutionarySearch(**_POPULATION, max_fail_count=patience),
        name,
        threads,
        seed,
        get_logging_func(_LOGGER),
    )
    _ffi_api.TuneContextInitialize(context)  # pyright: ignore[reportAttributeAccessIssue]
    return context


def _measure_candidate(schedule: Any) -> Any:
    from tvm.s_tir.meta_schedule.arg_info import ArgInfo
    from tvm.s_tir.meta_schedule.search_strategy import MeasureCandidate

    return MeasureCandidate(schedule, ArgInfo.from_entry_func(schedule.mod, remove_preproc=True))
