"""Reductions over the lanes of a row, all rows of a thread side by side.

TVM reduces row by row, each time asking which threads are there, and no row begins before the one
before it has gone through three shuffles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..intrinsics.quads import quad
from .steps import changed, substituted, whole


def across_lanes(stmt: Any) -> Any:
    """A statement with such reductions within it, sums and maxima, as shuffles of four lanes."""
    from tvm import tirx

    def change(part: Any) -> Any:
        bound = isinstance(part, tirx.For) and part.thread_binding is not None
        return _by_shuffles(part) if bound else None

    return changed(stmt, change)


@dataclass(frozen=True, eq=False)
class LaneReduction:
    """A reduction of what the lanes of a row have, in a nest of loops.

    Parameters
    ----------
    loops : tuple of tirx.For
        Of the nest, over threads and others.
    lane : int
        Which of them is over the lanes; within lie those over what one lane has.
    rows : tirx.For
        The one over the rows of a thread.
    block : s_tir.SBlock
        What is reduced, and by what.
    values : dict
        Of the variables of the block.
    """

    loops: tuple[Any, ...]
    lane: int
    rows: Any
    block: Any
    values: dict[Any, Any]

    @classmethod
    def of(cls, nest: Any) -> LaneReduction | None:
        """That of a nest; None if it is another one."""
        from tvm import s_tir, tirx

        loops, inner = [], nest
        while isinstance(inner, tirx.For):
            loops.append(inner)
            inner = inner.body
        if not isinstance(inner, s_tir.SBlockRealize):
            return None
        block: Any = inner.block
        tags = [_tag(each) for each in loops]
        value: Any = getattr(block.body, "value", None)
        if block.init is None or type(value) not in _kinds() or "threadIdx.x" not in tags:
            return None
        lane = tags.index("threadIdx.x")
        own = [each for each in loops[:lane] if not _tag(each)]
        if len(own) != 1:
            return None
        variables = (each.var for each in block.iter_vars)
        values = dict(zip(variables, inner.iter_values, strict=True))
        return cls(tuple(loops), lane, own[0], block, values)

    @property
    def kind(self) -> str:
        """``sum`` or ``max``."""
        return _kinds()[type(self.block.body.value)]

    @property
    def within_lane(self) -> tuple[Any, ...]:
        """The loops over what one lane has of a row."""
        return self.loops[self.lane + 1 :]

    @property
    def element(self) -> Any:
        """What is reduced, in terms of the loops' variables."""
        return substituted(self.block.body.value.b, self.values)

    def place(self, row: Any) -> list[Any]:
        """Where the result of a row of the thread goes."""
        there = (substituted(each, self.values) for each in self.block.body.indices)
        return [substituted(each, {self.rows.loop_var: row}) for each in there]

    def by_threads(self, stmt: Any) -> Any:
        """A statement that all these threads are to execute."""
        from tvm import tirx

        for loop in reversed(self.loops):
            if _tag(loop):
                stmt = tirx.For(
                    loop.loop_var, loop.min, loop.extent, loop.kind, stmt, loop.thread_binding
                )
        return stmt


def _by_shuffles(nest: Any) -> Any:
    """A nest of loops over one reduction, if its lanes are reduced; None otherwise."""
    from tvm import s_tir, tirx

    found = LaneReduction.of(nest)
    if found is None:
        return None
    rows, block = found.rows, found.block
    target, value = block.body.buffer, block.body.value
    part = tirx.decl_buffer((rows.extent,), "float32", name="of_lane", scope="local")
    reduced = type(value)(part[rows.loop_var], found.element)
    step: Any = tirx.BufferStore(part, reduced, [rows.loop_var])
    for loop in reversed(found.within_lane):
        step = tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, step)
    begin = tirx.BufferStore(part, block.init.value, [rows.loop_var])
    other: Any = tirx.Var("row", rows.loop_var.ty)
    all_lanes = tirx.BufferStore(target, quad(found.kind, part[other]), found.place(other))
    unrolled = tirx.ForKind.UNROLLED
    body = tirx.SeqStmt(
        [
            tirx.For(rows.loop_var, rows.min, rows.extent, unrolled, tirx.SeqStmt([begin, step])),
            tirx.For(other, rows.min, rows.extent, unrolled, all_lanes),
        ]
    )
    stmt = s_tir.SBlockRealize(
        [], True,
        s_tir.SBlock(
            [], [whole(each.source) for each in block.reads],
            [whole(each.source) for each in block.writes], block.name_hint, body,
            alloc_buffers=[part],
        ),
    )  # fmt: skip
    return found.by_threads(stmt)


def _kinds() -> dict[type, str]:
    """What reductions are called."""
    from tvm import tirx

    return {tirx.Add: "sum", tirx.Max: "max"}


def _tag(loop: Any) -> str:
    return getattr(loop.thread_binding, "thread_tag", "")
