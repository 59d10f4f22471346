"""TVM's own schedule rules for GPUs."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from ...workloads import PackedShape, PrefillShape, PrefillSpec, SymbolicShape, plain_attention
from ...workloads.elementary import BUILT_IN
from .space import Variant
from .stock import StockRules


class CudaStock(StockRules):
    """MetaSchedule's ``cuda`` rules: two matrix products and a softmax, a kernel for each step.

    They draw tiles of four loops without a look at what a GPU has of threads and shared memory, so
    that two of a thousand schedules may run at all (batch 32, length 128, 12 heads of 64), and
    unroll so much that NVRTC takes over a minute for some.
    """

    name: ClassVar[str] = "cuda_stock"
    kinds: ClassVar[frozenset[str]] = frozenset({"cuda"})
    rules: ClassVar[Literal["llvm", "cuda"]] = "cuda"
    patience: ClassVar[int] = 1000
    build_timeout: ClassVar[float] = 180.0

    def describe(
        self,
        spec: PrefillSpec,
        shape: PrefillShape | SymbolicShape | PackedShape,
        variant: Variant,
    ) -> Any:
        """The plain description in terms that TVM can vectorise for CUDA, as its rules ask for.

        It has no vectors of truth values, nor of what is called in CUDA's own words.
        """
        from tvm.s_tir.transform import RewriteUnsafeSelect

        return RewriteUnsafeSelect()(plain_attention(spec, shape, BUILT_IN))
