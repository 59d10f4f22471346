"""Copies of one element at a time, within two loops, that become copies of vectors.

They are read by vectors, change places in registers, and are written by vectors: what
:mod:`~.transposing` and :mod:`~.pairing` have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import PipelineError
from .steps import int32, is_annotated, substituted, whole


@dataclass(frozen=True, eq=False)
class Copy:
    """A copy of the elements of a tile.

    Parameters
    ----------
    outer, inner : tirx.For
        The loops around it.
    realize : s_tir.SBlockRealize
        The copy of one element.
    """

    outer: Any
    inner: Any
    realize: Any

    @classmethod
    def annotated(
        cls, stmt: Any, annotation: str, fits: Callable[[Copy], bool], needed: str
    ) -> Copy | None:
        """That which a loop with an annotation is; None for any other statement.

        Parameters
        ----------
        fits : Callable
            Whether a copy is of the kind that is meant.
        needed : str
            What such a loop is to have.

        Raises
        ------
        PipelineError
            If the loop is no such copy.
        """
        from tvm import s_tir, tirx

        if not is_annotated(stmt, annotation):
            return None
        inner: Any = stmt.body
        copies = (
            isinstance(inner, tirx.For)
            and isinstance(inner.body, s_tir.SBlockRealize)
            and isinstance(inner.body.block.body, tirx.BufferStore)
        )
        copy = cls(stmt, inner, inner.body) if copies else None
        if copy is None or not fits(copy):
            raise PipelineError(f"the loop over {stmt.loop_var.name} says {annotation}: {needed}")
        return copy

    @property
    def sides(self) -> tuple[int, int]:
        """Steps of both loops."""
        return int(self.outer.extent), int(self.inner.extent)

    @property
    def store(self) -> Any:
        """Of one element."""
        return self.realize.block.body

    @property
    def to(self) -> Any:
        """What is written."""
        return self.store.buffer

    def place(self, outer: int, inner: int) -> list[Any]:
        """Where an element is written."""
        variables = (each.var for each in self.realize.block.iter_vars)
        values = dict(zip(variables, self.realize.iter_values, strict=True))
        loops = {self.outer.loop_var: int32(outer), self.inner.loop_var: int32(inner)}
        return [substituted(substituted(each, values), loops) for each in self.store.indices]

    def lies_behind(self, outer: int, inner: int, elements: int) -> bool:
        """Whether an element is written so many elements behind the first one."""
        import tvm_ffi

        *others, last = self.place(0, 0)
        there, expected = self.place(outer, inner), [*others, last + elements]
        return tvm_ffi.structural_equal([*map(_simplified, there)], [*map(_simplified, expected)])

    def into(self, tile: Any, rows: Any, columns: Any) -> Any:
        """Loops that read into ``tile[row, column]``, a row as a vector; the two, in any order."""
        from tvm import s_tir, tirx

        block, kinds = self.realize.block, tirx.ForKind
        element = tirx.BufferStore(tile, self.store.value, [rows.loop_var, columns.loop_var])
        one = s_tir.SBlock(block.iter_vars, block.reads, [whole(tile)], block.name_hint, element)
        realize = s_tir.SBlockRealize(self.realize.iter_values, self.realize.predicate, one)
        vector = tirx.For(columns.loop_var, columns.min, columns.extent, kinds.VECTORIZED, realize)
        return tirx.For(rows.loop_var, rows.min, rows.extent, kinds.UNROLLED, vector)

    def by_way_of(self, tile: Any, name: str, stmts: Sequence[Any]) -> Any:
        """Statements in its place that keep the elements in ``tile`` in between."""
        from tvm import s_tir, tirx

        read = [*dict.fromkeys(region.source for region in self.realize.block.reads)]
        inside = s_tir.SBlock(
            [], [*map(whole, [*read, tile])], [*map(whole, [self.to, tile])], name,
            tirx.SeqStmt([*stmts]), None, [tile],
        )  # fmt: skip
        return s_tir.SBlockRealize([], True, inside)


def vectors_of(tile: Any) -> list[Any]:
    """The rows of a tile, each as a vector."""
    from tvm import tirx

    rows, columns = (int(each) for each in tile.shape)
    return [tirx.BufferLoad(tile, [int32(row), along(int32(0), columns)]) for row in range(rows)]


def along(begin: Any, elements: int) -> Any:
    """So many places side by side."""
    from tvm import tirx

    return tirx.Ramp(begin, int32(1), int32(elements))


def _simplified(expression: Any) -> Any:
    from tvm.sym import Analyzer

    return Analyzer().simplify(expression)
