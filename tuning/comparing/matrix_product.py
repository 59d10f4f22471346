"""The peak that a device reaches: a matrix product of PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any


@lru_cache(maxsize=1)
def matrix_product(dtype: str, size: int, device: str) -> Callable[[], Any]:
    """A call of a ``size``-cubed product."""
    import torch  # pyright: ignore[reportMissingImports]  (extra [torch])

    left, right = (
        torch.randn(size, size, device=device).to(getattr(torch, dtype)) for _ in range(2)
    )
    out = torch.empty_like(left)

    def call() -> Any:
        return torch.matmul(left, right, out=out)

    call()
    return call
