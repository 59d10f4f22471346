"""The arms that a search pulls: variants of the design spaces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...database import trace_to_json
from ...workloads import Case
from ..spaces import SPACES, DesignSpace, Variant
from ..target import ResolvedTarget
from .proposals import Proposal, Proposer, Sample, first_points, make_proposer, tune_context
from .trial_log import Trial


class Arm:
    """One variant of a design space and what is known of it; nothing is described before its turn.

    Parameters
    ----------
    cost_model : meta_schedule.CostModel
        Shared by the arms of a search.
    batch : int
        Candidates that evolution proposes at once.
    threads : int
        That schedules are sampled with.
    """

    def __init__(
        self,
        case: Case,
        target: ResolvedTarget,
        space: DesignSpace,
        variant: Variant,
        cost_model: Any,
        batch: int,
        threads: int,
    ) -> None:
        self.case = case
        self.target = target
        self.space = space
        self.variant = variant
        self.best = float("inf")
        self.batches = 0
        self.exhausted = False
        self._cost_model = cost_model
        self._batch = batch
        self._threads = threads
        self._made: Proposer | None = None
        self._first: list[Proposal] | None = None
        self._taken = 0
        self._earlier: list[Trial] = []

    @property
    def label(self) -> str:
        """Space and variant, for people."""
        parameters = ",".join(f"{name}={value}" for name, value in self.variant.items())
        return f"{self.space.name}[{parameters}]" if parameters else self.space.name

    def restore(self, trials: Sequence[Trial]) -> None:
        """Take over successful trials of an earlier search."""
        self.best = min([self.best, *(trial.seconds for trial in trials)])
        if self._made is None:
            self._earlier += trials
        else:
            self._made.restore(trials)

    def replay(self, trial: Trial) -> Proposal | None:
        """A trial of another shape's on this description; ``None`` if it does not fit."""
        from tvm.s_tir import Schedule
        from tvm.s_tir.schedule import Trace

        case = self.case
        module = self.space.describe(case.spec, case.shape, self.variant, self.target.kind)
        schedule = Schedule(module)
        try:
            Trace.apply_json_to_schedule(trial.trace, schedule)
        except Exception:  # TVM raises any Python class, by the name its C++ gives
            return None
        assert schedule.trace is not None
        return Proposal(schedule.mod, trace_to_json(schedule.trace))

    def begin(self, sample: Sample) -> None:
        """Propose first what :func:`sample_arm` found in another process."""
        self._first, self._taken = sample.proposals, sample.taken

    def propose(self, count: int) -> list[Proposal]:
        """The next candidates, about ``count``; empty once the arm is exhausted."""
        self.batches += 1
        first, self._first = self._first, None
        proposals = self._proposer.propose(count) if first is None else first
        self.exhausted = not proposals
        return proposals

    def learn(self, proposals: Sequence[Proposal], run_secs: Sequence[tuple[float, ...]]) -> None:
        """Tell the arm how its candidates did; no times for a failure."""
        self.best = min([self.best, *(min(secs) for secs in run_secs if secs)])
        if (
            self._made is not None
        ):  # points that were sampled elsewhere teach an enumeration nothing
            self._made.learn(proposals, run_secs)

    @property
    def _proposer(self) -> Proposer:
        if self._made is None:
            self._made = make_proposer(
                _context(
                    self.case, self.target, self.space, self.variant, self.label, self._threads
                ),
                self._cost_model,
                self._batch,
                self.case.seed,
                self.label,
                self._taken,
            )
            self._made.restore(self._earlier)
        return self._made


def sample_arm(
    case: Case, target: ResolvedTarget, space: str, variant: Variant, label: str, count: int
) -> Sample | None:
    """The first candidates of an arm that nothing is known of, about ``count``; runs in a worker.

    Returns
    -------
    Sample, optional
        ``None`` for a space that is evolved.
    """
    context = _context(case, target, SPACES[space], variant, label, threads=1)
    return first_points(context, case.seed, label, count)


def _context(
    case: Case,
    target: ResolvedTarget,
    space: DesignSpace,
    variant: Variant,
    label: str,
    threads: int,
) -> Any:
    return tune_context(
        space.describe(case.spec, case.shape, variant, target.kind),
        target.target,
        space.generator(case.spec, variant),
        label,
        threads,
        case.seed + 1,
        space.patience,
    )
