"""Heads as people write them."""

from __future__ import annotations

from ..workloads import PrefillSpec
from .errors import InvalidOptionError


def parse_heads(text: str, mask_mode: str, dtype: str) -> PrefillSpec:
    """The spec of ``QOxDIM`` or ``QO/KVxDIM``.

    Raises
    ------
    InvalidOptionError
        If ``text`` has another form.

    Examples
    --------
    >>> parse_heads('32/8x128', 'padded', 'float16').num_kv_heads
    8
    """
    query_heads, _, rest = text.partition("/")
    if rest:
        kv_heads, _, head_dim = rest.partition("x")
    else:
        query_heads, _, head_dim = text.partition("x")
        kv_heads = query_heads
    try:
        num_qo_heads, num_kv_heads, dim = int(query_heads), int(kv_heads), int(head_dim)
    except ValueError:
        raise InvalidOptionError(
            f"--heads is {text!r}; write QOxDIM or QO/KVxDIM, such as 12x64 or 32/8x128"
        ) from None
    return PrefillSpec(num_qo_heads, num_kv_heads, dim, dtype, mask_mode)
