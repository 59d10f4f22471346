"""Tiles whose rows become columns while they are copied, in registers.

Such a copy reads or writes element by element. Here it reads and writes vectors, whose elements
change places in registers: a tile of n by n takes n loads, n stores, and n log(n) exchanges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import PipelineError
from .annotations import TRANSPOSE
from .steps import int32, substituted, whole


def transposed(stmt: Any) -> Any:
    """An annotated loop over the rows of a square tile, with vectors; None for anything else.

    Raises
    ------
    PipelineError
        If it is not a loop over a power of two rows, in it one over as many columns, and in that a
        copy alone that writes rows side by side.
    """
    from tvm import s_tir, tirx

    if not (isinstance(stmt, tirx.For) and TRANSPOSE in stmt.annotations):
        return None
    copy = _Copy.of(stmt)
    tile: Any = tirx.decl_buffer((copy.side, copy.side), copy.to.dtype, "tile")
    inside = s_tir.SBlock(
        [], [*map(whole, [*copy.read, tile])], [*map(whole, [copy.to, tile])], "transposed",
        tirx.SeqStmt([copy.into(tile), *copy.out_of(tile)]), None, [tile],
    )  # fmt: skip
    return s_tir.SBlockRealize([], True, inside)


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


@dataclass(frozen=True)
class _Copy:
    """A copy of a square tile, ``to[..., column, row] = ...``.

    Parameters
    ----------
    rows, columns : tirx.For
        The loops around it, of ``side`` steps.
    realize : s_tir.SBlockRealize
        The copy of one element.
    side : int
        Of the tile.
    """

    rows: Any
    columns: Any
    realize: Any
    side: int

    @classmethod
    def of(cls, rows: Any) -> _Copy:
        """That which a loop over rows is; a PipelineError if it is none."""
        from tvm import s_tir, tirx

        columns, side = rows.body, _steps(rows)
        if (
            isinstance(columns, tirx.For)
            and _steps(columns) == side
            and side & (side - 1) == 0
            and isinstance(columns.body, s_tir.SBlockRealize)
            and isinstance(columns.body.block.body, tirx.BufferStore)
        ):
            copy = cls(rows, columns, columns.body, side)
            if copy.rows_lie_side_by_side():
                return copy
        raise PipelineError(
            f"the loop over {rows.loop_var.name} says {TRANSPOSE}: let it have a power of two "
            "steps, in it a loop of as many, and in that a copy alone that writes rows side by side"
        )

    @property
    def store(self) -> Any:
        """Of one element."""
        return self.realize.block.body

    @property
    def to(self) -> Any:
        """What is written."""
        return self.store.buffer

    @property
    def read(self) -> list[Any]:
        """What is read."""
        return [*dict.fromkeys(region.source for region in self.realize.block.reads)]

    def place(self, row: int, column: int) -> list[Any]:
        """Where an element is written."""
        block = self.realize.block
        values = dict(
            zip((each.var for each in block.iter_vars), self.realize.iter_values, strict=True)
        )
        loops = {self.rows.loop_var: int32(row), self.columns.loop_var: int32(column)}
        return [substituted(substituted(each, values), loops) for each in self.store.indices]

    def rows_lie_side_by_side(self) -> bool:
        """Whether the next row is written next to a row."""
        import tvm_ffi

        *outer, last = self.place(0, 0)
        return tvm_ffi.structural_equal(
            [*map(_simplified, self.place(1, 0))], [*map(_simplified, [*outer, last + 1])]
        )

    def into(self, tile: Any) -> Any:
        """Loops that read the tile, a row as a vector."""
        from tvm import s_tir, tirx

        block, row, column = self.realize.block, self.rows, self.columns
        element = tirx.BufferStore(tile, self.store.value, [row.loop_var, column.loop_var])
        one = s_tir.SBlock(block.iter_vars, block.reads, [whole(tile)], block.name_hint, element)
        realize = s_tir.SBlockRealize(self.realize.iter_values, self.realize.predicate, one)
        kinds = tirx.ForKind
        inner = tirx.For(column.loop_var, column.min, column.extent, kinds.VECTORIZED, realize)
        return tirx.For(row.loop_var, row.min, row.extent, kinds.UNROLLED, inner)

    def out_of(self, tile: Any) -> list[Any]:
        """Statements that write the columns of the tile, each as a vector."""
        from tvm import tirx

        def along(begin: Any) -> Any:
            return tirx.Ramp(begin, int32(1), int32(self.side))

        rows = [tirx.BufferLoad(tile, [int32(row), along(int32(0))]) for row in range(self.side)]
        stores = []
        for column, vector in enumerate(exchanged(rows)):
            *outer, last = self.place(0, column)
            stores.append(tirx.BufferStore(self.to, vector, [*outer, along(last)]))
        return stores


def _steps(loop: Any) -> int:
    return int(loop.extent)


def _simplified(expression: Any) -> Any:
    from tvm.sym import Analyzer

    return Analyzer().simplify(expression)
