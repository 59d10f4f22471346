"""One arm of a search: a variant of a design space with MetaSchedule's search over it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..database import trace_to_json
from ..workloads import LengthDistribution, PrefillShape, PrefillSpec
from .spaces import DesignSpace, Variant
from .target import ResolvedTarget
from .trial_log import Trial

_LOGGER = logging.getLogger(__name__)

# MetaSchedule's defaults evolve 512 schedules four times for a batch of 64, half a minute on two
# cores; spaces of a few thousand points and batches of 8 need no more than this.
_POPULATION = {"population_size": 32, "init_min_unmeasured": 16, "genetic_num_iters": 2}
_UNBOUNDED_TRIALS = 1 << 20


@dataclass(frozen=True)
class Case:
    """What is tuned: a workload, for a target, under a length distribution.

    Parameters
    ----------
    lens : LengthDistribution
        Of the batches that candidates are timed on.
    seed : int
        Of the search, the inputs and the lengths.
    """

    spec: PrefillSpec
    shape: PrefillShape
    target: ResolvedTarget
    lens: LengthDistribution
    seed: int = 0

    def batches(self) -> tuple[tuple[int, ...], ...]:
        """Valid lengths of the batches that candidates are timed on."""
        return self.lens.batches(self.shape.batch, self.shape.num_kv, self.seed)

    def check_lens(self) -> tuple[int, ...]:
        """An irregular batch on which every candidate is checked besides the one it is timed on."""
        length = self.shape.num_kv
        cycle = (length // 2 + 1, 0, 1, length, length + 7, 3 * length // 4)
        return tuple(cycle[index % len(cycle)] for index in range(self.shape.batch))

    def __str__(self) -> str:
        return f"{self.spec} {self.shape} on {self.target.key} ({self.lens.text} lengths)"


@dataclass(frozen=True)
class Proposal:
    """A candidate of an arm."""

    candidate: Any
    trace: Any

    @property
    def module(self) -> Any:
        """The scheduled module."""
        return self.candidate.sch.mod


class Arm:
    """MetaSchedule's evolutionary search over one variant.

    Parameters
    ----------
    cost_model : meta_schedule.CostModel
        Shared by the arms of a search: it tells their workloads apart.
    batch : int
        Candidates a proposal.
    """

    def __init__(
        self, case: Case, space: DesignSpace, variant: Variant, cost_model: Any, batch: int
    ) -> None:
        self.case = case
        self.space = space
        self.variant = variant
        self.best = float("inf")
        self.batches = 0
        self.exhausted = False
        self._cost_model = cost_model
        self._batch = batch
        self._context: Any = None

    @property
    def label(self) -> str:
        """Space and variant, for people."""
        parameters = ",".join(f"{name}={value}" for name, value in self.variant.items())
        return f"{self.space.name}[{parameters}]" if parameters else self.space.name

    def module(self) -> Any:
        """The unscheduled IRModule of the arm."""
        case = self.case
        return self.space.describe(case.spec, case.shape, self.variant, case.target.kind)

    def restore(self, trials: Sequence[Trial]) -> None:
        """Take over trials of an earlier search."""
        from tvm.s_tir import Schedule
        from tvm.s_tir.schedule import Trace

        self._start()
        proposals, secs = [], []
        for trial in trials:
            schedule = Schedule(self._context.mod)
            try:
                Trace.apply_json_to_schedule(trial.trace, schedule)
            except Exception as error:  # TVM raises any Python class, by the name its C++ gives
                _LOGGER.warning("a logged trial of %s replays no more: %s", self.label, error)
                continue
            proposals.append(Proposal(_measure_candidate(schedule), trial.trace))
            secs.append(trial.run_secs)
        if proposals:
            self._remember(proposals, secs)

    def propose(self) -> list[Proposal]:
        """The next candidates; empty once the arm is exhausted."""
        self._start()
        candidates = self._context.generate_measure_candidates()
        if candidates is None:
            self.exhausted = True
            return []
        return [Proposal(each, trace_to_json(each.sch.trace)) for each in candidates]

    def learn(self, proposals: Sequence[Proposal], run_secs: Sequence[tuple[float, ...]]) -> None:
        """Tell the search how its candidates did; no times for a failure."""
        from tvm.s_tir.meta_schedule.runner import RunnerResult

        self.batches += 1
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
            self.best = min(self.best, *secs)
            self._database.commit_tuning_record(
                TuningRecord(
                    proposal.candidate.sch.trace,
                    self._workload,
                    list(secs),
                    self.case.target.target,
                    proposal.candidate.args_info,
                )
            )
        if measured:
            self._cost_model.update(
                self._context,
                [proposal.candidate for proposal, _ in measured],
                [RunnerResult(list(secs), None) for _, secs in measured],
            )

    def _start(self) -> None:
        if self._context is not None:
            return
        from tvm.s_tir.meta_schedule.database import MemoryDatabase
        from tvm.s_tir.meta_schedule.search_strategy import EvolutionarySearch

        self._database = MemoryDatabase()
        self._workload = self._database.commit_workload(self.module())
        self._context = _tune_context(
            self._workload.mod,
            self.case.target,
            self.space.generator(self.variant),
            EvolutionarySearch(**_POPULATION),
            self.label,
            self.case.seed + 1,
        )
        self._context.pre_tuning(
            max_trials=_UNBOUNDED_TRIALS,
            num_trials_per_iter=self._batch,
            database=self._database,
            cost_model=self._cost_model,
        )


def _tune_context(
    module: Any, target: ResolvedTarget, generator: Any, strategy: Any, name: str, seed: int
) -> Any:
    """A TuneContext made without its Python constructor, which imports every tensor intrinsic."""
    from tvm.s_tir.meta_schedule import _ffi_api
    from tvm.s_tir.meta_schedule.logging import get_logging_func

    context = _ffi_api.TuneContext(  # pyright: ignore[reportAttributeAccessIssue]
        module,
        target.target,
        generator,
        strategy,
        name,
        target.threads,
        seed,
        get_logging_func(_LOGGER),
    )
    _ffi_api.TuneContextInitialize(context)  # pyright: ignore[reportAttributeAccessIssue]
    return context


def _measure_candidate(schedule: Any) -> Any:
    from tvm.s_tir.meta_schedule.arg_info import ArgInfo
    from tvm.s_tir.meta_schedule.search_strategy import MeasureCandidate

    return MeasureCandidate(schedule, ArgInfo.from_entry_func(schedule.mod, remove_preproc=True))
