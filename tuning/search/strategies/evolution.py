"""MetaSchedule's evolutionary search, for design spaces of more points than can be tried."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from ....database import apply_trace, trace_to_json
from ..trial_log import Trial
from .strategy import Proposal

_LOGGER = logging.getLogger(__name__)

# MetaSchedule wants to know in advance; a search ends by its own limit.
_UNBOUNDED_TRIALS = 1 << 20


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
    generation : int
        Candidates that are proposed at once.
    name : str
        Of the variant, for the log.
    onto : tvm.IRModule, optional
        What schedules are proposed of, if not of the module of ``context``: the same with variables
        for sizes.
    """

    def __init__(
        self,
        context: Any,
        schedules: Sequence[Any],
        cost_model: Any,
        generation: int,
        name: str,
        onto: Any = None,
    ) -> None:
        from tvm.s_tir.meta_schedule.database import MemoryDatabase

        self._context = context
        self._cost_model = cost_model
        self._name = name
        self._onto = onto
        self._database = MemoryDatabase()
        self._workload = self._database.commit_workload(context.mod)
        context.pre_tuning(
            max_trials=_UNBOUNDED_TRIALS,
            num_trials_per_iter=generation,
            design_spaces=schedules,
            database=self._database,
            cost_model=cost_model,
        )

    def propose(self, count: int) -> list[Proposal]:
        """The next generation, of the size given at the start whatever ``count`` is."""
        candidates = self._context.generate_measure_candidates() or ()
        return [self._proposal(each, trace_to_json(each.sch.trace)) for each in candidates]

    def _proposal(self, candidate: Any, trace: Any) -> Proposal:
        module = candidate.sch.mod if self._onto is None else apply_trace(trace, self._onto).mod
        return Proposal(module, trace, candidate)

    def restore(self, trials: Sequence[Trial]) -> None:
        """Replay trials, for the population and the cost model to start from."""
        proposals, secs = [], []
        for trial in trials:
            try:
                schedule = apply_trace(trial.trace, self._context.mod)
            except Exception as error:  # TVM raises any Python class, by the name its C++ gives
                _LOGGER.warning("a logged trial of %s replays no more: %s", self._name, error)
                continue
            proposals.append(Proposal(schedule.mod, trial.trace, _measure_candidate(schedule)))
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
        """Add the successes to the population that is bred from, and to what the model knows."""
        from tvm.s_tir.meta_schedule.database import TuningRecord
        from tvm.s_tir.meta_schedule.runner import RunnerResult

        measured = [
            (each.candidate, list(secs))
            for each, secs in zip(proposals, run_secs, strict=True)
            if secs
        ]
        for candidate, secs in measured:
            self._database.commit_tuning_record(
                TuningRecord(
                    candidate.sch.trace,
                    self._workload,
                    secs,
                    self._context.target,
                    candidate.args_info,
                )
            )
        if measured:
            self._cost_model.update(
                self._context,
                [candidate for candidate, _ in measured],
                [RunnerResult(secs, None) for _, secs in measured],
            )


def _measure_candidate(schedule: Any) -> Any:
    from tvm.s_tir.meta_schedule.arg_info import ArgInfo
    from tvm.s_tir.meta_schedule.search_strategy import MeasureCandidate

    return MeasureCandidate(schedule, ArgInfo.from_entry_func(schedule.mod, remove_preproc=True))
