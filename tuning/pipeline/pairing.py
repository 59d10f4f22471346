"""Two rows that are copied into one, element beside element, by vectors.

Such a copy writes element by element, each two from the next one. Here both rows are vectors, which
become one of pairs in registers.
"""

from __future__ import annotations

from typing import Any

from ..errors import PipelineError
from .annotations import PAIR
from .steps import int32, substituted, whole


def paired(stmt: Any) -> Any:
    """An annotated loop over the elements of two rows, with vectors; None for anything else.

    Raises
    ------
    PipelineError
        If it is not a loop with one over two rows in it, and in that a copy alone that writes the
        pairs of elements side by side.
    """
    from tvm import s_tir, tirx

    if not (isinstance(stmt, tirx.For) and PAIR in stmt.annotations):
        return None
    rows: Any = stmt.body
    lanes = _steps(stmt)
    if not (
        isinstance(rows, tirx.For)
        and _steps(rows) == 2
        and isinstance(rows.body, s_tir.SBlockRealize)
        and isinstance(rows.body.block.body, tirx.BufferStore)
    ):
        raise _misplaced(stmt)
    realize, block = rows.body, rows.body.block
    store: Any = block.body
    values = dict(zip((each.var for each in block.iter_vars), realize.iter_values, strict=True))

    def place(element: int, row: int) -> list[Any]:
        loops = {stmt.loop_var: int32(element), rows.loop_var: int32(row)}
        return [substituted(substituted(each, values), loops) for each in store.indices]

    *outer, first = place(0, 0)
    if not (
        _equal(place(0, 1), [*outer, first + 1])
        and (lanes < 2 or _equal(place(1, 0), [*outer, first + 2]))
    ):
        raise _misplaced(stmt)
    both: Any = tirx.decl_buffer((2, lanes), store.buffer.dtype, "rows")
    element = tirx.BufferStore(both, store.value, [rows.loop_var, stmt.loop_var])
    one = s_tir.SBlock(block.iter_vars, block.reads, [whole(both)], block.name_hint, element)
    read = s_tir.SBlockRealize(realize.iter_values, realize.predicate, one)
    kinds = tirx.ForKind
    vector = tirx.For(stmt.loop_var, stmt.min, stmt.extent, kinds.VECTORIZED, read)
    both_read = tirx.For(rows.loop_var, rows.min, rows.extent, kinds.UNROLLED, vector)
    vectors: list[Any] = [
        tirx.BufferLoad(both, [int32(row), tirx.Ramp(int32(0), int32(1), int32(lanes))])
        for row in range(2)
    ]
    order = [int32(lanes * row + lane) for lane in range(lanes) for row in range(2)]
    along = tirx.Ramp(first, int32(1), int32(2 * lanes))
    written = tirx.BufferStore(store.buffer, tirx.Shuffle(vectors, order), [*outer, along])
    read_from = [*dict.fromkeys(region.source for region in block.reads)]
    inside = s_tir.SBlock(
        [], [*map(whole, [*read_from, both])], [*map(whole, [store.buffer, both])], "paired",
        tirx.SeqStmt([both_read, written]), None, [both],
    )  # fmt: skip
    return s_tir.SBlockRealize([], True, inside)


def _steps(loop: Any) -> int:
    """How many, of a loop of known length."""
    return int(loop.extent)


def _equal(left: list[Any], right: list[Any]) -> bool:
    import tvm_ffi
    from tvm.sym import Analyzer

    simplify = Analyzer().simplify
    return tvm_ffi.structural_equal([*map(simplify, left)], [*map(simplify, right)])


def _misplaced(loop: Any) -> PipelineError:
    return PipelineError(
        f"the loop over {loop.loop_var.name} says {PAIR}: let it have in it a loop over two rows, "
        "and in that a copy alone that writes the elements of both side by side"
    )
