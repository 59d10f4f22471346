"""TVM's own schedule rules on the plain description: the comparison for the other spaces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from ...workloads import PrefillShape, PrefillSpec, SymbolicShape, plain_attention
from ..target import ResolvedTarget
from .space import DesignSpace, Variant


class LlvmStock(DesignSpace):
    """MetaSchedule's ``llvm`` rules, post-processors and mutators, untouched."""

    name: ClassVar[str] = "llvm_stock"
    kinds: ClassVar[frozenset[str]] = frozenset({"llvm"})
    any_shape: ClassVar[bool] = False  # its tiles divide the sizes that it was tuned on

    def variants(
        self, spec: PrefillSpec, shape: PrefillShape, target: ResolvedTarget
    ) -> Sequence[Variant]:
        return ({},)

    def describe(
        self,
        spec: PrefillSpec,
        shape: PrefillShape | SymbolicShape,
        variant: Variant,
        kind: str,
    ) -> Any:
        return plain_attention(spec, shape, kind)

    def generator(self, spec: PrefillSpec, variant: Variant) -> Any:
        from tvm.s_tir.meta_schedule.space_generator import PostOrderApply

        # Named rather than "from-target": the rules for AVX-512 and VNNI add integer dot products
        # only, and need hundreds of tensor intrinsics imported.
        return PostOrderApply(sch_rules="llvm", postprocs="llvm", mutator_probs="llvm")
