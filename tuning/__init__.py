"""Design spaces, search, measurement, comparison, and kernels from records for those who build.

What builds need is importable from here; TVM is imported with the first of it, not before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..workloads.on_demand import on_demand

if TYPE_CHECKING:
    from .deployment import sequence_prefill_with_mask, swap_prefill_kernels, swap_prefill_pass

__all__ = ["sequence_prefill_with_mask", "swap_prefill_kernels", "swap_prefill_pass"]

if not TYPE_CHECKING:
    __getattr__ = on_demand(__name__, {"deployment": __all__})


def __dir__() -> list[str]:
    return __all__
