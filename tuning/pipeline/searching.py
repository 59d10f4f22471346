"""The search for the sequence of a tile, by all lanes of a warp at once.

A search by halves loads one number after another, each of which hangs on the one before: a block
would wait for memory once for every bit of the number of sequences, before it starts anything.
Here each lane asks at a place of its own, and up to 32 sequences are told apart at once. What is
known of the sequence is loaded beside, by each lane for its own, and comes from the lane that
found it.

Compilers do not know that all lanes have the same of what comes from one. Blocks of more than one
warpgroup, which are short of registers and wait for less of their time, search by halves.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from ..intrinsics.warps import LANES, from_lane, held_by, lane
from .steps import bound_through, int32, stored, substituted, with_equal

# Places in a search's memory.
_LANE, _HELD, _STEP, _PROBE = range(4)


def searched_by_warps(stmt: Any) -> Any:
    """An sblock whose search is made by warps; None for other statements."""
    from tvm import s_tir, tirx

    if not (isinstance(stmt, s_tir.SBlock) and isinstance(stmt.body, tirx.SeqStmt)):
        return None
    stmts = list(stmt.body.seq)
    found = [index for index, each in enumerate(stmts) if isinstance(each, tirx.While)]
    if not found:
        return None
    (at,) = found
    rewritten, buffers = _by_warps(stmts[at - 2 : at + 2], stmts[at + 2 :])
    body = tirx.SeqStmt([*stmts[: at - 2], *rewritten])
    return s_tir.SBlock(
        stmt.iter_vars, stmt.reads, stmt.writes, stmt.name_hint, body,
        stmt.init, [*stmt.alloc_buffers, *buffers], stmt.match_buffers, stmt.annotations,
    )  # fmt: skip


def _by_warps(search: Sequence[Any], others: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """A search by halves in other statements, and the memory that these need.

    Parameters
    ----------
    search : sequence of Stmt
        What stores its ends, its loop, and what binds a variable to what was found.
    others : sequence of Stmt
        That follow; those loads that they begin with, of what is known at the place found or next
        to it, are made beside the search.
    """
    from tvm import tirx

    first, last, loop, bind = search
    ends, place, zero = first.buffer, bind.var, int32(0)
    begin: Any = ends[0]
    end: Any = ends[1]
    asked = loop.body.condition
    middle = loop.body.then_case.value
    loads = [*itertools.takewhile(_is_load_at(place), _pairs(others))]
    memory = tirx.decl_buffer((4,), "int32", f"{place.name}_search", scope="local")
    beside = tirx.decl_buffer((max(1, len(loads)),), "int32", f"{place.name}_beside", scope="local")
    own: Any = begin + memory[_LANE] * memory[_STEP]
    probe: Any = memory[_PROBE]
    held = with_equal(asked, middle, probe)
    finder: Any = memory[_HELD] - 1

    def store(value: Any, index: int, buffer: Any = memory) -> Any:
        return stored(buffer, value, index)

    turn: list[Any] = [
        store((end - begin + (LANES - 1)) // LANES, _STEP),
        store(tirx.min(own, end - 1), _PROBE),
        store(held_by(memory[_LANE], own < end, held), _HELD),
        *(
            store(from_lane(substituted(load.value, {place: probe}), finder), index, beside)
            for index, (load, _) in enumerate(loads)
        ),
        store(begin + finder * memory[_STEP], 0, ends),
        store(tirx.min(begin + memory[_STEP], end), 1, ends),
    ]
    # At least one turn: it loads what is known of the place.
    more: Any = tirx.any(end - begin > 1, tirx.EQ(memory[_HELD], zero))
    rounds = tirx.While(more, tirx.SeqStmt(turn))
    known = [
        stmt
        for index, (load, bound) in enumerate(loads)
        for stmt in bound_through(load.buffer, beside[index], bound.var, int(load.indices[0]))
    ]
    stmts = [first, last, store(lane(), _LANE), store(zero, _HELD), rounds, bind, *known]
    return [*stmts, *others[2 * len(loads) :]], [memory, beside]


def _pairs(stmts: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Statements, two by two."""
    return list(zip(stmts[::2], stmts[1::2], strict=False))


def _is_load_at(place: Any) -> Any:
    """Whether two statements bind to an element at a place, or next to it, through memory."""
    from tvm import tirx
    from tvm.ir import TensorLoad
    from tvm.tirx.analysis import undefined_vars

    def asked(pair: tuple[Any, Any]) -> bool:
        store, bind = pair
        if not (isinstance(store, tirx.BufferStore) and isinstance(bind, tirx.Bind)):
            return False
        value: Any = store.value
        return isinstance(value, TensorLoad) and any(
            place.same_as(each) for index in value.indices for each in undefined_vars(index)
        )

    return asked
