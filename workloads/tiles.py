"""What tiled descriptions fix before any schedule."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Tiles:
    """Sizes of tiles, and what is computed with.

    Parameters
    ----------
    q_tile : int
        Query rows that share one pass over the keys.
    kv_tile : int
        Key positions of one step of the recurrence.
    operand_dtype : str
        Of the query, key, value and probability tiles that the two GEMMs read.
    head_multiple : int
        Of the elements of a head in these tiles, with zeros beyond what there are in memory.
    heads : int
        Query heads that share a query tile, ``q_tile // heads`` positions of each; these share keys
        and values too.
    """

    q_tile: int
    kv_tile: int
    operand_dtype: str = "float32"
    head_multiple: int = field(default=1, kw_only=True)
    heads: int = field(default=1, kw_only=True)
