"""Design spaces for CPUs whose every decision is a category, for tests of the search."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from prefilltune.tuning.spaces import DesignSpace, Variant
from prefilltune.tuning.target import ResolvedTarget
from prefilltune.workloads import PrefillShape, PrefillSpec, plain_attention


def split_scores(sch: Any, sizes: Sequence[int], blocks: Sequence[str]) -> None:
    """Split 24 columns of blocks into 12 times a category; sizes below 2 have no schedule.

    Sampling takes the first size, so that a space may have points that cannot be scheduled.
    """
    likely = [1.0, *[0.0] * (len(sizes) - 1)]
    for name in blocks:
        factor = sch.sample_categorical(list(sizes), likely)
        column = sch.get_loops(sch.get_sblock(name))[3]
        sch.split(column, factors=[12, factor])


@dataclass(frozen=True)
class SplitScores(DesignSpace):
    """The plain description with its columns split.

    Parameters
    ----------
    widths : tuple[tuple[int, ...], ...]
        Sizes to choose from, of one variant each.
    scales : tuple[float, ...]
        Factors on the spec's scale, of one variant each; another than 1 is wrong.
    """

    widths: tuple[tuple[int, ...], ...]
    scales: tuple[float, ...] = (1.0,)
    name: ClassVar[str] = "split_scores"
    kinds: ClassVar[frozenset[str]] = frozenset({"llvm"})
    any_shape: ClassVar[bool] = False

    def variants(
        self, spec: PrefillSpec, shape: PrefillShape, target: ResolvedTarget
    ) -> Sequence[Variant]:
        return [
            {"widths": index, "scale": str(scale)}
            for scale in self.scales
            for index in range(len(self.widths))
        ]

    def describe(self, spec: PrefillSpec, shape: PrefillShape, variant: Variant) -> Any:
        scale = spec.scale * float(variant["scale"])
        other = PrefillSpec(
            spec.num_qo_heads, spec.num_kv_heads, spec.head_dim, spec.dtype, spec.mask_mode, scale
        )
        return plain_attention(other, shape)

    def generator(self, spec: PrefillSpec, variant: Variant) -> Any:
        from tvm.s_tir.meta_schedule.space_generator import ScheduleFn

        sizes = self.widths[int(variant["widths"])]
        return ScheduleFn(
            lambda sch: split_scores(sch, sizes, ("dot", "scores")),
            sch_rules=[],
            postprocs=[],
            mutator_probs={},
        )


class WrongScores(SplitScores):
    """Computes twice the scores."""

    name: ClassVar[str] = "wrong_scores"

    def variants(
        self, spec: PrefillSpec, shape: PrefillShape, target: ResolvedTarget
    ) -> Sequence[Variant]:
        return [{**each, "scale": "2.0"} for each in super().variants(spec, shape, target)]


class DeadlyScores(SplitScores):
    """Kills whoever searches it."""

    name: ClassVar[str] = "deadly_scores"

    def variants(
        self, spec: PrefillSpec, shape: PrefillShape, target: ResolvedTarget
    ) -> Sequence[Variant]:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("is dead")
