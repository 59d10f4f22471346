"""Tiles whose rows become columns while they are copied, in registers.

Such a copy reads or writes element by element. Here it reads and writes vectors, whose elements
change places in registers: a tile of n by n takes n loads, n stores, and n log(n) exchanges.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .annotations import TRANSPOSE
from .copying import Copy, along, vectors_of
from .steps import int32


def transposed(stmt: Any) -> Any:
    """An annotated loop over the rows of a square tile, with vectors; None for anything else.

    Raises
    ------
    PipelineError
        If it is not a loop over a power of two rows, in it one over as many columns, and in that a
        copy alone that writes rows side by side.
    """
    from tvm import tirx

    needed = (
        "let it have a power of two steps, in it a loop of as many, and in that a copy alone that "
        "writes rows side by side"
    )
    copy = Copy.annotated(stmt, TRANSPOSE, _is_square, needed)
    if copy is None:
        return None
    tile: Any = tirx.decl_buffer(copy.sides, copy.to.dtype, "tile")
    side, _ = copy.sides
    stores = []
    for column, vector in enumerate(exchanged(vectors_of(tile))):
        *outer, last = copy.place(0, column)
        stores.append(tirx.BufferStore(copy.to, vector, [*outer, along(last, side)]))
    return copy.by_way_of(tile, "transposed", [copy.into(tile, copy.outer, copy.inner), *stores])


def exchanged(rows: Sequence[Any]) -> list[Any]:
    """The columns of a square tile whose rows are vectors.

    Of each square, from the whole tile down to two by two, the quarters beside the diagonal change
    places.
    """
    from tvm import tirx

    found, side = [*rows], len(rows)
    half = side // 2
    while half:
        left = [each if not each & half else side + each - half for each in range(side)]
        right = [each + half if not each & half else side + each for each in range(side)]
        for row in range(side):
            if not row & half:
                pair = [found[row], found[row + half]]
                found[row], found[row + half] = (
                    tirx.Shuffle(pair, [*map(int32, taken)]) for taken in (left, right)
                )
        half //= 2
    return found


def _is_square(copy: Copy) -> bool:
    """Whether it is of as many rows as columns, a power of two, with rows written side by side."""
    rows, columns = copy.sides
    return rows == columns and rows & (rows - 1) == 0 and copy.lies_behind(1, 0, 1)
