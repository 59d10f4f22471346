"""Two rows that are copied into one, element beside element, by vectors.

Such a copy writes element by element, each two from the next one. Here both rows are vectors, which
become one of pairs in registers.
"""

from __future__ import annotations

from typing import Any

from .annotations import PAIR
from .copying import Copy, along, vectors_of
from .steps import int32


def paired(stmt: Any) -> Any:
    """An annotated loop over the elements of two rows, with vectors; None for anything else.

    Raises
    ------
    PipelineError
        If it is not a loop with one over two rows in it, and in that a copy alone that writes the
        pairs of elements side by side.
    """
    from tvm import tirx

    needed = (
        "let it have in it a loop over two rows, and in that a copy alone that writes the elements "
        "of both side by side"
    )
    copy = Copy.annotated(stmt, PAIR, _pairs, needed)
    if copy is None:
        return None
    lanes, _ = copy.sides
    both: Any = tirx.decl_buffer((2, lanes), copy.to.dtype, "rows")
    order = [int32(lanes * row + lane) for lane in range(lanes) for row in range(2)]
    *outer, first = copy.place(0, 0)
    pairs = tirx.Shuffle(vectors_of(both), order)
    written = tirx.BufferStore(copy.to, pairs, [*outer, along(first, 2 * lanes)])
    return copy.by_way_of(both, "paired", [copy.into(both, copy.inner, copy.outer), written])


def _pairs(copy: Copy) -> bool:
    """Whether the elements of two rows are written side by side."""
    lanes, rows = copy.sides
    return rows == 2 and copy.lies_behind(0, 1, 1) and (lanes < 2 or copy.lies_behind(1, 0, 2))
