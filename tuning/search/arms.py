"""The arms that a search pulls: variants of the design spaces."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from ...database import trace_to_json
from ...workloads import Case, PackedShape, PrefillShape
from ...workloads.sizes import measured_sizes
from ..building.replaying import replay
from ..spaces import SPACES, DesignSpace, Variant
from ..target import ResolvedTarget
from .strategies import Proposal, Strategy, make_strategy
from .strategies.context import tune_context
from .strategies.sample import Sample, first_points
from .trial_log import ArmKey, Trial, arm_key


class Arm:
    """One variant of a design space and what is known of it; nothing is described before its turn.

    Parameters
    ----------
    cost_model : meta_schedule.CostModel
        Shared by the arms of a search.
    generation : int
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
        generation: int,
        threads: int,
    ) -> None:
        self.case = case
        self.target = target
        self.space = space
        self.variant = variant
        self.best = float("inf")
        self.turns = 0
        self.exhausted = False
        self._cost_model = cost_model
        self._generation = generation
        self._threads = threads
        self._made: Strategy | None = None
        self._sample: Sample | None = None
        self._taken = 0
        self._earlier: list[Trial] = []

    @property
    def label(self) -> str:
        """Space and variant, for people."""
        parameters = ",".join(f"{name}={value}" for name, value in self.variant.items())
        return f"{self.space.name}[{parameters}]" if parameters else self.space.name

    @property
    def key(self) -> ArmKey:
        """Equal to that of the trials of its candidates."""
        return arm_key(self.space.name, self.variant)

    def describe(self) -> Any:
        """The variant's description of what is timed, an IRModule without a schedule."""
        return self._described(measured_sizes(self.case.spec, self.case.shape))

    def restore(self, trials: Sequence[Trial]) -> None:
        """Take over successful trials of an earlier search."""
        self.best = min([self.best, *(trial.seconds for trial in trials)])
        if self._made is None:
            self._earlier += trials
        else:
            self._made.restore(trials)

    def replay(self, trial: Trial) -> Proposal | None:
        """A trial of another workload's on this description, or what it decided, if of another
        layout; ``None`` if neither fits.
        """
        spec = self.case.spec
        sizes = measured_sizes(spec, self.case.shape)
        for alone in (False, True):
            try:
                found = replay(
                    self.space, spec, sizes, self.variant, trial.trace, decisions_alone=alone
                )
            except Exception:  # TVM raises any Python class, by the name its C++ gives
                continue
            return Proposal(found.module, trace_to_json(found.trace))
        return None

    def begin(self, sample: Sample) -> None:
        """Propose first what :func:`sample_arm` found in another process."""
        self._sample, self._taken = sample, sample.taken

    def propose(self, count: int) -> list[Proposal]:
        """The next candidates, about ``count``; empty once the arm is exhausted."""
        self.turns += 1
        sample, self._sample = self._sample, None
        proposals = self._strategy.propose(count) if sample is None else sample.proposals
        self.exhausted = not proposals
        return proposals

    def learn(self, proposals: Sequence[Proposal], run_secs: Sequence[tuple[float, ...]]) -> None:
        """Tell the arm how its candidates did; no times for a failure."""
        self.best = min([self.best, *(min(secs) for secs in run_secs if secs)])
        if self._made is not None:  # else all are of a sample, thus of a space that is enumerated
            self._made.learn(proposals, run_secs)

    def trial(self, proposal: Proposal, **outcome: Any) -> Trial:
        """What came of a candidate of this arm; without an outcome, to be compared with others."""
        return Trial(self.space.name, dict(self.variant), proposal.trace, **outcome)

    def sample(self, count: int) -> Sample | None:
        """The first candidates, about ``count``; ``None`` for a space that is evolved."""
        return first_points(self._context(self.describe()), self.case.seed, self.label, count)

    @property
    def _strategy(self) -> Strategy:
        if self._made is None:
            case = self.case

            def fixed() -> Any:
                return self._context(self._described(case.shape))

            self._made = make_strategy(
                self._context(self.describe()),
                self._cost_model,
                self._generation,
                case.seed,
                self.label,
                self._taken,
                fixed if case.spec.is_packed else None,
            )
            self._made.restore(self._earlier)
        return self._made

    def _described(self, sizes: PrefillShape | PackedShape) -> Any:
        return self.space.describe(self.case.spec, sizes, self.variant)

    def _context(self, description: Any) -> Any:
        return tune_context(
            description,
            self.target.target,
            self.space.generator(self.case.spec, self.variant),
            self.label,
            self._threads,
            self.case.seed + 1,
            self.space.patience,
        )


def sample_arm(
    case: Case, target: ResolvedTarget, space: str, variant: Variant, count: int
) -> Sample | None:
    """:meth:`Arm.sample` of an arm that nothing is known of; runs in a worker."""
    return Arm(case, target, SPACES[space], variant, None, 0, threads=1).sample(count)


def arms_of(
    case: Case,
    target: ResolvedTarget,
    spaces: Sequence[DesignSpace],
    generation: int,
    threads: int,
    warm: Sequence[Trial] = (),
) -> list[Arm]:
    """Every variant an arm, the spaces taking turns; those of ``warm`` before others, in its order.

    Variants of ``warm`` that a space offers no more, or on other targets, are arms whose trials are
    replayed and that propose nothing, where the space's kernels run anywhere.

    Parameters
    ----------
    generation : int
        Candidates that evolution proposes at once.
    threads : int
        That schedules are sampled with.
    warm : Sequence[Trial]
        Of other shapes.
    """
    from tvm.s_tir.meta_schedule.cost_model import XGBModel

    # Threads of its own would wait for one another, spinning, on the cores that builders have.
    cost_model = XGBModel(num_warmup_samples=32, num_tuning_cores=1, verbose_eval=0)

    def arm(space: DesignSpace, variant: Variant) -> Arm:
        return Arm(case, target, space, variant, cost_model, generation, threads)

    per_space = [
        [arm(space, variant) for variant in space.variants(case.spec, case.shape, target)]
        for space in spaces
    ]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*per_space))
    offered = [each for each in turns if each is not None]
    keys = {each.key for each in offered}
    anywhere = {space.name: space for space in spaces if space.any_target}
    replayed: dict[ArmKey, Arm] = {}
    for trial in warm:
        if trial.arm not in keys | replayed.keys() and trial.space in anywhere:
            replayed[trial.arm] = arm(anywhere[trial.space], trial.variant)
            replayed[trial.arm].exhausted = True
    places = {key: place for place, key in enumerate(dict.fromkeys(each.arm for each in warm))}
    offered.sort(key=lambda each: places.get(each.key, len(places)))
    return [*replayed.values(), *offered]
