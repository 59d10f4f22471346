"""Loops over the columns of a tile that end where the columns do.

The last tile of columns that a tile of rows visits has fewer than the others. Whole ones are right
too, since columns beyond are masked; but of 64 these are 32 on average, as many as a short sequence
has.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from ..errors import PipelineError
from .annotations import TILES, TRIM
from .steps import changed, is_annotated, other_annotations


def trimmed(stmt: Any) -> Any:
    """A loop over tiles of columns, whose inner loops end with them; None for anything else.

    Raises
    ------
    PipelineError
        If the loop does not say how many columns there are: its extent is that, up to whole tiles.
    """
    from tvm import tirx
    from tvm.sym import Analyzer

    if not is_annotated(stmt, TILES):
        return None
    tiles: Any = stmt.extent
    if not isinstance(tiles, tirx.FloorDiv):
        raise PipelineError(
            f"the loop over {stmt.loop_var.name} says {TILES}, and has {tiles} steps: let it be as "
            "many as (columns + tile - 1) // tile, of which columns can be told"
        )
    width: Any = tiles.b
    multiple = int(stmt.annotations[TILES])
    left: Any = tiles.a - (width - 1) - stmt.loop_var * width
    columns: Any = tirx.min((left + (multiple - 1)) // multiple * multiple, width)
    body = changed(stmt.body, partial(_within, columns=Analyzer().simplify(columns)))
    kept = other_annotations(stmt, TILES)
    return tirx.For(stmt.loop_var, stmt.min, tiles, stmt.kind, body, None, kept)


def _within(stmt: Any, columns: Any) -> Any:
    """A loop over columns that ends with them, and a single step if there are any for it."""
    from tvm import tirx

    if not is_annotated(stmt, TRIM):
        return None
    begin: Any = stmt.min
    extent: Any = stmt.extent
    taken = int(stmt.annotations[TRIM])
    kept = other_annotations(stmt, TRIM)
    single = int(extent) == 1
    steps: Any = extent if single else tirx.min((columns + (taken - 1)) // taken, extent)
    loop = tirx.For(stmt.loop_var, begin, steps, stmt.kind, stmt.body, None, kept)
    return tirx.IfThenElse(columns > begin * taken, loop, None) if single else loop
