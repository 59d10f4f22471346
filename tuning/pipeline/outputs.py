"""The last step of a tile, which copies its output to global memory, as one call of each warp."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import PipelineError
from ..intrinsics.fragments import FRAGMENT, SHARED, UNTRACKED, WARP_ROWS
from ..intrinsics.rows import write_fragments, write_rows
from .rings import heads_of, sblock_of
from .steps import changed, other_annotations, over_threads, stores_of, substituted

_ALIGNED = "buffer_dim_align"


def written_by_warps(stmts: list[Any]) -> list[Any]:
    """The steps of a tile with the copy of staged rows as a call: no warp waits for another.

    It is the last one: what registers a store is from can't be written until it has read them, and
    what is behind stores of whole rows would wait for that.

    Raises
    ------
    PipelineError
        If no step copies rows from shared memory or fragments.
    """
    found = [_copy(each) for each in stmts]
    if sum(each is not None for each in found) != 1:
        raise PipelineError("a persistent grid needs one step that copies the output's rows")
    ((stmt, copy),) = [(s, copy) for s, copy in zip(stmts, found, strict=True) if copy is not None]
    others = [each for each in stmts if each is not stmt]
    return [*others, _written(stmt, *copy, _stride(stmts, copy[1].source))]


def from_registers(
    stmts: Sequence[Any], buffers: Sequence[Any]
) -> tuple[list[Any], list[Any]] | None:
    """The steps of a tile and their buffers, with an output that went through shared memory.

    It goes to global memory from registers. None if it does anyway.
    """
    import tvm_ffi
    from tvm import tirx

    copies = [(each, copy[1].source) for each in stmts if (copy := _copy(each)) is not None]
    staged = [each for each in copies if each[1].scope() == SHARED]
    if not staged:
        return None
    ((copies_out, old),) = staged
    new = tirx.decl_buffer(old.shape, old.dtype, old.name, scope=FRAGMENT)

    def moved(buffer: Any) -> Any:
        return new if buffer.same_as(old) else buffer

    def change(stmt: Any) -> Any:
        stored = any(each.buffer.same_as(old) for each in stores_of(stmt))
        if not stored and stmt is not copies_out:
            return stmt
        return changed(tvm_ffi.structural_map(stmt, (tirx.Buffer, moved), order="pre"), _unaligned)

    return [*map(change, stmts)], [*map(moved, buffers)]


def _unaligned(stmt: Any) -> Any:
    """An sblock that says how rows are set apart, without that: registers are not."""
    from tvm import s_tir

    if not isinstance(stmt, s_tir.SBlock) or _ALIGNED not in stmt.annotations:
        return None
    return s_tir.SBlock(
        stmt.iter_vars, stmt.reads, stmt.writes, stmt.name_hint, stmt.body, stmt.init,
        stmt.alloc_buffers, stmt.match_buffers, other_annotations(stmt, _ALIGNED),
    )  # fmt: skip


def _copy(stmt: Any) -> tuple[Any, Any, Any] | None:
    """The block, what it reads and what it writes, where a step copies rows of a tile."""
    from tvm import tirx
    from tvm.ir import TensorLoad

    if not isinstance(stmt, tirx.For):
        return None
    try:
        block = sblock_of(stmt)
    except PipelineError:
        return None
    store = _stored(block.body)
    if not (isinstance(store, tirx.BufferStore) and isinstance(store.value, TensorLoad)):
        return None
    buffers: list[Any] = [store.value.source, store.buffer]
    staged, written = (each.scope() for each in buffers)
    rows = staged in (SHARED, FRAGMENT) and written == "global"
    return (block, store.value, store) if rows else None


def _stored(body: Any) -> Any:
    """What is stored, though it may be under a condition."""
    from tvm import tirx

    return body.then_case if isinstance(body, tirx.IfThenElse) else body


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


def _written(stmt: Any, block: Any, load: Any, store: Any, stride: int) -> Any:
    from tvm import tirx

    zeros = {each.var: tirx.const(0, each.var.ty.dtype) for each in block.iter_vars}
    first = [substituted(each, zeros) for each in store.indices]
    *_, length, heads, columns = store.buffer.shape
    begin, end = _rows_of_tile(block.body, store.indices[-3], first[-3], length)
    if len(store.buffer.shape) == 3:
        end = _end_of_sequence(stmt, store.indices[-3], first[-3])
    where = tirx.address_of(store.buffer[tuple(first)])
    warp: Any = tirx.Var("warp", "int32")
    place = where, begin, end, tirx.Cast("int64", heads * columns * 2), warp
    tile, sharing = load.source, heads_of(store.indices[-2])
    if tile.scope() == SHARED:
        call = write_rows(tile.access_ptr(UNTRACKED), *place, int(columns), stride, sharing)
    else:
        own = tirx.address_of(tile[warp * WARP_ROWS, 0])
        call = write_fragments(own, *place, int(tile.shape[-1]), int(columns), sharing)
    return over_threads(warp, int(tile.shape[0]) // WARP_ROWS, "threadIdx.z", tirx.Evaluate(call))


def _end_of_sequence(stmt: Any, row: Any, first: Any) -> Any:
    """Before which row of a tile of packed sequences rows are stored: there others may begin.

    Raises
    ------
    PipelineError
        If the step asks for anything but the rows before one.
    """
    from tvm import tirx
    from tvm.sym.analyzer import Analyzer

    loops: dict[Any, Any] = {}
    while isinstance(stmt, tirx.For):
        var: Any = stmt.loop_var
        loops[var] = tirx.const(0, var.ty.dtype)
        stmt = stmt.body
    variables = [each.var for each in stmt.block.iter_vars]
    where = _of_rows(stmt.predicate, loops)
    row = substituted(row, dict(zip(variables, stmt.iter_values, strict=True)))
    begin = substituted(where.a, loops) if isinstance(where, tirx.LT) else None
    if begin is None or not Analyzer().can_prove_equal(row - first, where.a - begin):
        raise PipelineError(
            f"rows of packed sequences are stored where {where}; a persistent grid stores those "
            "before one row"
        )
    return where.b - begin


def _of_rows(where: Any, loops: dict[Any, Any]) -> Any:
    """A condition without what the loops of a row ask for that go beyond the tile.

    Threads that do not divide the pieces of a tile's rows have such loops; a call writes no more
    than the tile.
    """
    from tvm import tirx
    from tvm.tirx.analysis import undefined_vars

    both: Any = where
    if not isinstance(where, tirx.And):
        return where
    rows, beyond = both.a, both.b
    of_row = [each for each in undefined_vars(rows) if each in loops]
    alone = all(any(map(each.same_as, of_row)) for each in undefined_vars(beyond))
    return rows if alone and isinstance(beyond, tirx.LT) else where


def _rows_of_tile(body: Any, row: Any, first: Any, length: Any) -> tuple[Any, Any]:
    """From which row of the tile on, and before which one, rows are stored.

    Raises
    ------
    PipelineError
        If a condition asks for anything but an interval of rows.
    """
    import tvm_ffi
    from tvm import tirx

    begin: Any = tirx.const(0, "int32")
    end = length - first
    conditions = [body.condition] if isinstance(body, tirx.IfThenElse) else []
    while conditions:
        each: Any = conditions.pop()
        both = each
        if isinstance(each, tirx.And):
            conditions += [both.a, both.b]
        elif isinstance(each, tirx.GE) and tvm_ffi.structural_equal(each.a, row):
            begin = tirx.max(begin, each.b - first)
        elif isinstance(each, tirx.LT) and tvm_ffi.structural_equal(each.a, row):
            end = tirx.min(end, each.b - first)
        else:
            raise PipelineError(
                f"rows are stored where {each}; a persistent grid stores those from one row on, "
                "or before one"
            )
    return begin, end
