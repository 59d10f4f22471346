"""Design spaces, search, measurement, comparison, and kernels from records for those who build.

What builds need is importable from here; TVM is imported with the first of it, not before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .deployment import sequence_prefill_with_mask, swap_prefill_kernels, swap_prefill_pass

__all__ = ["sequence_prefill_with_mask", "swap_prefill_kernels", "swap_prefill_pass"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import deployment as dispatch

    return getattr(dispatch, name)
