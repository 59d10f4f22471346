"""Reductions over the lanes of a row, all rows of a thread side by side.

TVM reduces row by row, each time asking which threads are there, and no row begins before the one
before it has gone through three shuffles.
"""

from __future__ import annotations

from typing import Any

from ..intrinsics.quads import quad
from .steps import changed, substituted


def across_lanes(stmt: Any) -> Any:
    """A statement with such reductions within it, sums and maxima, as shuffles of four lanes."""
    from tvm import tirx

    def change(part: Any) -> Any:
        bound = isinstance(part, tirx.For) and part.thread_binding is not None
        return _by_shuffles(part) if bound else None

    return changed(stmt, change)


def _by_shuffles(nest: Any) -> Any:
    """A nest of loops over one reduction, if its lanes are reduced; None otherwise."""
    from tvm import s_tir, tirx

    loops, inner = [], nest
    while isinstance(inner, tirx.For):
        loops.append(inner)
        inner = inner.body
    if not isinstance(inner, s_tir.SBlockRealize):
        return None
    block: Any = inner.block
    names = {tirx.Add: "sum", tirx.Max: "max"}
    value: Any = getattr(block.body, "value", None)
    tags = [getattr(each.thread_binding, "thread_tag", "") for each in loops]
    if block.init is None or type(value) not in names or "threadIdx.x" not in tags:
        return None
    lane = tags.index("threadIdx.x")
    own = [each for each, tag in zip(loops[:lane], tags, strict=False) if not tag]
    if len(own) != 1:
        return None
    (rows,) = own
    variables = (each.var for each in block.iter_vars)
    known = dict(zip(variables, inner.iter_values, strict=True))
    target = block.body.buffer
    part = tirx.decl_buffer((rows.extent,), "float32", name="of_lane", scope="local")
    element = substituted(value.b, known)

    def row(index: Any) -> list[Any]:
        there = (substituted(each, known) for each in block.body.indices)
        return [substituted(each, {rows.loop_var: index}) for each in there]

    step: Any = tirx.BufferStore(part, type(value)(part[rows.loop_var], element), [rows.loop_var])
    for loop in reversed(loops[lane + 1 :]):
        step = tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, step)
    begin = tirx.BufferStore(part, block.init.value, [rows.loop_var])
    other: Any = tirx.Var("row", rows.loop_var.ty)
    whole = tirx.BufferStore(target, quad(names[type(value)], part[other]), row(other))
    unrolled = tirx.ForKind.UNROLLED
    body = tirx.SeqStmt(
        [
            tirx.For(rows.loop_var, rows.min, rows.extent, unrolled, tirx.SeqStmt([begin, step])),
            tirx.For(other, rows.min, rows.extent, unrolled, whole),
        ]
    )
    stmt: Any = s_tir.SBlockRealize(
        [], True,
        s_tir.SBlock(
            [], [*map(_whole, block.reads)], [*map(_whole, block.writes)], block.name_hint, body,
            alloc_buffers=[part],
        ),
    )  # fmt: skip
    for loop, tag in zip(reversed(loops), reversed(tags), strict=True):
        if tag:
            stmt = tirx.For(
                loop.loop_var, loop.min, loop.extent, loop.kind, stmt, loop.thread_binding
            )
    return stmt


def _whole(region: Any) -> Any:
    from tvm import tirx
    from tvm.ir import Range
    from tvm.tirx.stmt import BufferRegion

    zero = tirx.const(0, "int32")
    return BufferRegion(region.source, [Range(zero, each) for each in region.source.shape])
