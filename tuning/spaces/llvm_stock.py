"""TVM's own schedule rules for CPUs."""

from __future__ import annotations

from typing import ClassVar, Literal

from .stock import StockRules


class LlvmStock(StockRules):
    """MetaSchedule's ``llvm`` rules.

    Named rather than "from-target": the rules for AVX-512 and VNNI add integer dot products only,
    and need hundreds of tensor intrinsics imported.
    """

    name: ClassVar[str] = "llvm_stock"
    kinds: ClassVar[frozenset[str]] = frozenset({"llvm"})
    rules: ClassVar[Literal["llvm", "cuda"]] = "llvm"
