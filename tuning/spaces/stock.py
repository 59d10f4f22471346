"""TVM's own schedule rules on the plain description: the comparison for the other spaces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from ...workloads import PackedShape, PrefillShape, PrefillSpec, SymbolicShape, plain_attention
from ...workloads.sizes import numbers_all_scores
from ..target import ResolvedTarget
from .space import DesignSpace, Variant


class StockRules(DesignSpace):
    """MetaSchedule's rules, post-processors and mutators of one kind, untouched.

    Their tiles divide sizes that are known, which packed sequences do not have, and their kernels
    hold the scores of all pairs.
    """

    any_shape: ClassVar[bool] = False  # its tiles divide the sizes that it was tuned on

    #: MetaSchedule's name for the rules.
    rules: ClassVar[Literal["llvm", "cuda"]]

    def variants(
        self, spec: PrefillSpec, shape: PrefillShape, target: ResolvedTarget
    ) -> Sequence[Variant]:
        return () if spec.is_packed or not numbers_all_scores(spec, shape) else ({},)

    def describe(
        self,
        spec: PrefillSpec,
        shape: PrefillShape | SymbolicShape | PackedShape,
        variant: Variant,
    ) -> Any:
        return plain_attention(spec, shape)

    def generator(self, spec: PrefillSpec, variant: Variant) -> Any:
        from tvm.s_tir.meta_schedule.space_generator import PostOrderApply

        return PostOrderApply(sch_rules=self.rules, postprocs=self.rules, mutator_probs=self.rules)
