"""What a design space is: descriptions of one workload, and the schedules of each."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from ...workloads import PackedShape, PrefillShape, PrefillSpec, SymbolicShape
from ..target import ResolvedTarget

#: Parameters of a description and of its space: what sampling cannot change.
Variant = Mapping[str, int | bool | str]


class DesignSpace(ABC):
    """One way to schedule masked prefill attention.

    A space offers *variants*: parameters that change the description or the structure of the
    schedule. Within a variant every choice is a sampled decision of the trace: the search tries
    all of a variant's points where they are few, and else has MetaSchedule's mutators move them.
    """

    #: Kept in the records; never reuse a name for another space.
    name: ClassVar[str]

    #: Target kinds that the space schedules for.
    kinds: ClassVar[frozenset[str]]

    #: Whether a trace found on one shape also schedules the description of sizes that are learned
    #: at the call.
    any_shape: ClassVar[bool] = True

    #: Whether kernels of variants that are offered for one target run on every target of the kind.
    any_target: ClassVar[bool] = False

    #: Rounds of sampling without one valid schedule after which evolution takes the space for
    #: exhausted.
    patience: ClassVar[int] = 5

    #: Seconds that building a candidate may take.
    build_timeout: ClassVar[float] = 60.0

    @abstractmethod
    def variants(
        self, spec: PrefillSpec, shape: PrefillShape, target: ResolvedTarget
    ) -> Sequence[Variant]:
        """The variants worth trying, the most promising first."""

    @abstractmethod
    def describe(
        self,
        spec: PrefillSpec,
        shape: PrefillShape | SymbolicShape | PackedShape,
        variant: Variant,
    ) -> Any:
        """The unscheduled IRModule of a variant: the workload that its records hang on."""

    @abstractmethod
    def generator(self, spec: PrefillSpec, variant: Variant) -> Any:
        """MetaSchedule's SpaceGenerator for a variant."""

    def facts(self, spec: PrefillSpec, variant: Variant) -> dict[str, str]:
        """What a variant says of its kernels, for people: what it is, and how much."""
        return {name.replace("_", " "): str(value) for name, value in variant.items()}

    def variant_for(self, spec: PrefillSpec, variant: Variant) -> Variant:
        """The variant of a spec whose space decides what ``variant`` of another dtype decides."""
        return variant

    def takes(self, spec: PrefillSpec) -> bool:
        """Whether what was decided for another dtype can be put on a spec's description."""
        return True

    def register(self, spec: PrefillSpec, variant: Variant) -> tuple[str, ...]:
        """Register the tensor intrinsics that traces of a variant name, and return their names.

        :meth:`describe` does so too; who replays a trace on a description of another origin needs
        this alone.
        """
        return ()


def reaches(tile: int, length: int, smallest: int) -> bool:
    """Whether a tile is no more than twice too long, or no longer than the smallest there is.

    >>> [reaches(tile, 50, 32) for tile in (32, 64, 128)]
    [True, True, False]
    """
    return tile < 2 * length or tile <= smallest


def reaching(tiles: Sequence[int], length: int) -> list[int]:
    """Of tiles those that are not much too long, the smallest at least.

    >>> reaching((128, 32, 64), 50)
    [32, 64]
    """
    return [each for each in tiles if reaches(each, length, min(tiles))]


def one_schedule(
    schedule: Callable[[Any], None], mutators: Mapping[Any, float] | None = None
) -> Any:
    """A SpaceGenerator of one schedule and its sampled decisions, without rules of MetaSchedule's.

    Parameters
    ----------
    schedule : Callable[[tvm.s_tir.Schedule], None]
        Schedules in place.
    mutators : Mapping[meta_schedule.Mutator, float], optional
        How often evolution applies each; a space whose variants are all enumerated needs none.
    """
    from tvm.s_tir.meta_schedule.space_generator import ScheduleFn

    return ScheduleFn(schedule, sch_rules=[], postprocs=[], mutator_probs=dict(mutators or {}))


def heads_of_a_tile(spec: PrefillSpec, q_tile: int) -> int:
    """How many heads of a group may share a query tile: all, or as many as divide both.

    Examples
    --------
    >>> [heads_of_a_tile(PrefillSpec(*heads, 64, "float16"), 64) for heads in ((32, 8), (28, 4))]
    [4, 1]
    """
    return math.gcd(spec.group_size, q_tile)
