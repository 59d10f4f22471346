"""What a mask asks of a lane's columns, one after another, is asked of numbers.

A lane has the columns ``begin + 2 * lane + c`` of a tile, for the same numbers c in every tile, and
compares each with an end of what its row sees. In TIR every comparison adds up its column anew; by
``c < end - begin - 2 * lane``, of which the right side is the same for all, it is one instruction.
Where all rows see the same columns, comparisons are the same for the rows of a lane, and stay.
"""

from __future__ import annotations

from typing import Any

from .steps import changed, stored


def masked_by_limits(stmt: Any) -> Any:
    """An sblock whose unrolled loops compare their numbers with limits; None for other parts."""
    from tvm import s_tir, tirx

    if not isinstance(stmt, s_tir.SBlock):
        return None
    memory: list[Any] = []

    def change(part: Any) -> Any:
        if isinstance(part, s_tir.SBlock):
            return changed(part, masked_by_limits)
        unrolled = isinstance(part, tirx.For) and part.kind == tirx.ForKind.UNROLLED
        return _limited(part, memory) if unrolled and not memory else None

    body = changed(stmt.body, change)
    return s_tir.SBlock(
        stmt.iter_vars, stmt.reads, stmt.writes, stmt.name_hint, body, stmt.init,
        [*stmt.alloc_buffers, *memory], stmt.match_buffers, stmt.annotations,
    )  # fmt: skip


def _limited(nest: Any, memory: list[Any]) -> Any:
    """Unrolled loops around one store, if that compares; what limits are in goes to ``memory``."""
    import tvm_ffi
    from tvm import tirx
    from tvm.tirx.analysis import undefined_vars

    loops, inner = [], nest
    while isinstance(inner, tirx.For) and inner.kind == tirx.ForKind.UNROLLED:
        loops.append(inner)
        inner = inner.body
    if not isinstance(inner, tirx.BufferStore):
        return None
    variables = [each.loop_var for each in loops]
    rows = {var for index in inner.indices[:-1] for var in undefined_vars(index)}
    limits: list[Any] = []
    buffer = tirx.decl_buffer((4,), "int32", name="limit", scope="local")

    def limit(comparison: Any) -> Any:
        split = _split(comparison, variables)
        if split is None:
            return comparison
        number, end = split
        if rows.isdisjoint(undefined_vars(end)):
            return comparison
        limits.append(end)
        return type(comparison)(number, buffer[len(limits) - 1])

    kinds = (tirx.LT, tirx.LE, tirx.GT, tirx.GE)
    value = tvm_ffi.structural_map(inner.value, (kinds, limit))
    if not 0 < len(limits) <= int(buffer.shape[0]):
        return None
    memory.append(buffer)
    step: Any = tirx.BufferStore(inner.buffer, value, inner.indices)
    for loop in reversed(loops):
        step = tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, step)
    stores = [stored(buffer, end, index) for index, end in enumerate(limits)]
    return tirx.SeqStmt([*stores, step])


def _split(comparison: Any, variables: list[Any]) -> tuple[Any, Any] | None:
    """The part of a comparison that depends on the variables, and what it is compared with."""
    from tvm import tirx
    from tvm.sym import detect_linear_equation

    if str(comparison.a.ty.dtype) != "int32":
        return None
    found = detect_linear_equation(comparison.a - comparison.b, variables)
    if not found:
        return None
    *factors, rest = found
    if all(isinstance(each, tirx.IntImm) and each.value == 0 for each in factors):
        return None
    number = sum(
        (var * each for var, each in zip(variables, factors, strict=True)),
        tirx.const(0, "int32"),
    )
    return number, 0 - rest
