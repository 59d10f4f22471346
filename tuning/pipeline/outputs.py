"""The last step of a tile, which copies its output to global memory, as one call of each warp."""

from __future__ import annotations

from typing import Any

from ..errors import PipelineError
from ..intrinsics.fragments import UNTRACKED
from ..intrinsics.rows import write_rows
from .rings import sblock_of
from .steps import changed, substituted

_ALIGNED = "buffer_dim_align"


def written_by_warps(stmts: list[Any]) -> list[Any]:
    """The steps of a tile with the copy of staged rows as a call: no warp waits for another.

    Raises
    ------
    PipelineError
        If no step copies rows from shared memory.
    """
    found = [_copy(each) for each in stmts]
    if sum(each is not None for each in found) != 1:
        raise PipelineError("a persistent grid needs one step that copies the output's rows")
    return [
        stmt if copy is None else _written(*copy, _stride(stmts, copy[1].source))
        for stmt, copy in zip(stmts, found, strict=True)
    ]


def _copy(stmt: Any) -> tuple[Any, Any, Any] | None:
    """The block, what it reads and what it writes, where a step copies rows from shared memory."""
    from tvm import tirx
    from tvm.ir import TensorLoad

    if not isinstance(stmt, tirx.For):
        return None
    try:
        block = sblock_of(stmt)
    except PipelineError:
        return None
    store: Any = block.body
    if not (isinstance(store, tirx.BufferStore) and isinstance(store.value, TensorLoad)):
        return None
    buffers: list[Any] = [store.value.source, store.buffer]
    scopes = tuple(each.scope() for each in buffers)
    return (block, store.value, store) if scopes == ("shared.dyn", "global") else None


def _stride(stmts: list[Any], tile: Any) -> int:
    """How far rows of the tile are apart: its schedule may say a number and the rest by that."""
    from tvm import s_tir

    found = []

    def visit(part: Any) -> None:
        if isinstance(part, s_tir.SBlock) and any(
            each.source.same_as(tile) for each in part.writes
        ):
            aligned: Any = part.annotations.get(_ALIGNED, ())
            found.extend((int(each[2]), int(each[3])) for each in aligned)

    for each in stmts:
        changed(each, visit)
    columns = int(tile.shape[-1])
    return next((columns + (rest - columns) % number for number, rest in found), columns)


def _written(block: Any, load: Any, store: Any, stride: int) -> Any:
    from tvm import tirx

    zeros = {each.var: tirx.const(0, each.var.ty.dtype) for each in block.iter_vars}
    first = [substituted(each, zeros) for each in store.indices]
    _, length, heads, columns = store.buffer.shape
    call = write_rows(
        load.source.access_ptr(UNTRACKED),
        tirx.address_of(store.buffer[tuple(first)]),
        length - first[1],
        tirx.Cast("int64", heads * columns * 2),
        int(columns),
        stride,
    )
    return tirx.Evaluate(call)
