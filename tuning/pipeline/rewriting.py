"""Loading the next tile while one is computed with, in a loop that keeps one copy of what computes.

TVM's ``InjectSoftwarePipeline`` emits copies of every step before and behind the loop, which cost a
kernel full of tensor-core accumulators its registers. Here the loads alone are copied; or, where
products are to overlap with the steps between them, the steps of the first tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from ..errors import PipelineError
from ..intrinsics import WARPGROUP
from .across_lanes import across_lanes
from .annotations import (
    ALL,
    BULK,
    BULK_ONCE,
    LAUNCH_BOUNDS,
    LOADS,
    LOADS_AFTER,
    MIN_BLOCKS,
    OVERLAP,
    PERSISTENT,
    PRODUCER,
)
from .clearing import cleared_early
from .known_once import known_once
from .leaving import is_bound_to_blocks, left_early
from .limits import masked_by_limits
from .on_demand import maxima_on_demand
from .orders import prefetched, ringed
from .pairing import paired
from .peeling import peeled
from .persistent import persistent
from .rings import Ring, begin_rings
from .scopes import scoped
from .searching import searched_by_warps
from .steps import changed, is_annotated, joined
from .tile_registers import in_words, with_tile_registers
from .transposing import transposed
from .trimming import trimmed
from .unswitching import unswitched


def pipeline(module: Any) -> Any:
    """Rewrite the annotated loops of every function of a scheduled module.

    ``for t in range(n): load(t); first(t); rest(t)`` becomes
    ``if n > 0: load(0)``, then ``for t in range(n): first(t); if t + 1 < n: load(t + 1); rest(t)``.

    With :data:`BULK`, no thread copies anything, and warps of a block run apart as far as their
    rings let them: they wait for tiles, and not for each other.

    With :data:`OVERLAP` besides, ``first`` being a product of what the first of two loads brought
    and the last step one of what the second did, it becomes a loop whose first product is a tile
    ahead of its second (as in FlashAttention-3, Shah et al. 2024, section 3.2): in it both are
    started, then come the steps between those products, and the second is waited for before what it
    reads is overwritten.

    Of a loop with :data:`ON_DEMAND` maxima are computed where the anchor has to move. Of one with
    :data:`PEEL` the last step is written out behind it, if it does less than others.
    Loops with :data:`TRIM` end with the columns of the tile that one with :data:`TILES` is at.
    Tiles with :data:`TRANSPOSE` are copied by vectors, and transposed in registers, and rows with
    :data:`PAIR` become pairs there. Threads with :data:`TILE_REGISTERS` ready and release them.

    What is computed stays the same; a module without annotations is returned as it is.

    Raises
    ------
    PipelineError
        If the annotations do not fit the loop, or a statement is of an unknown kind.
    """
    import tvm
    from tvm.tirx import PrimFunc, SeqStmt

    def rewritten(function: Any) -> Any:
        if not isinstance(function, PrimFunc):
            return function
        whole: Any = function
        rings: list[Ring] = []
        bulk = _holds(whole.body, BULK)
        body = changed(whole.body, masked_by_limits) if bulk else whole.body
        body = changed(body, maxima_on_demand)
        body = changed(body, cleared_early)
        body = changed(body, partial(_pipelined, rings=rings))
        body = changed(body, left_early)
        body = changed(body, unswitched) if bulk else body
        body = changed(body, peeled)
        body = changed(body, trimmed)
        body = changed(body, in_words)
        body = changed(body, transposed)
        body = changed(body, paired)
        body = changed(body, with_tile_registers)
        changed(body, _refuse_annotated)
        # A persistent grid needs all registers that it has: of what it would load, some is spilled.
        if not _holds(whole.body, PERSISTENT):
            if _waits_for_a_search(whole.body):
                body = changed(body, searched_by_warps)
            body = known_once(whole.with_body(body)).body
        body = scoped(body)
        sources = [stmt for ring in rings for stmt in ring.describe_source()]
        return whole.with_body(SeqStmt([*sources, body]) if sources else body)

    functions = {name: rewritten(each) for name, each in module.functions.items()}
    return tvm.IRModule(functions, attrs=module.attrs)


def _pipelined(stmt: Any, rings: list[Ring]) -> Any:
    """An annotated loop, and the loads beside it; what is loaded through goes to ``rings``."""
    from tvm import s_tir, tirx

    if _is_persistent(stmt):
        return persistent(stmt, rings)
    if is_annotated(stmt, LOADS):
        return _pipelined_loop(stmt, (), rings)
    if isinstance(stmt, s_tir.SBlock) and _has(stmt.body, BULK):
        return _with_rings(stmt, rings)
    if not _has(stmt, LOADS):
        return None
    return tirx.SeqStmt(_pipelined_steps(stmt, (), rings))


def _has(stmt: Any, annotation: str) -> bool:
    """Whether one of several statements is a loop with an annotation."""
    from tvm import tirx

    return isinstance(stmt, tirx.SeqStmt) and any(is_annotated(each, annotation) for each in stmt)


def _with_rings(block: Any, rings: list[Ring]) -> Any:
    """The sblock of a tile, whose rings begin before it asks where the tile lies."""
    from tvm import s_tir, tirx

    (warps,) = (int(each.annotations[BULK]) for each in block.body if is_annotated(each, BULK))
    once = [each for each in block.body if is_annotated(each, BULK_ONCE)]
    own: list[Ring] = []
    stmts = _pipelined_steps(block.body, once, own)
    rings += own
    return s_tir.SBlock(
        block.iter_vars, block.reads, block.writes, block.name_hint,
        tirx.SeqStmt([begin_rings(own, warps), *stmts]), block.init,
        [*block.alloc_buffers, own[0].barriers], block.match_buffers, block.annotations,
    )  # fmt: skip


def _pipelined_steps(stmts: Any, once: Sequence[Any], rings: list[Ring]) -> list[Any]:
    """Statements beside one another, without those that load ``once``."""
    return [
        _pipelined_loop(each, once, rings)
        if is_annotated(each, LOADS)
        else changed(each, partial(_pipelined, rings=rings))
        for each in stmts
        if not (once and is_annotated(each, BULK_ONCE))
    ]


def _waits_for_a_search(body: Any) -> bool:
    """Whether blocks are of one warpgroup: a search is much of the little time that they take."""
    found = []

    def visit(part: Any) -> None:
        if is_annotated(part, BULK):
            found.append(int(part.annotations[BULK]))

    changed(body, visit)
    return found == [WARPGROUP]


def _is_persistent(stmt: Any) -> bool:
    """Whether these are loops bound to blocks around a loop of a persistent grid."""
    return is_bound_to_blocks(stmt) and _holds(stmt, PERSISTENT)


def _holds(stmt: Any, annotation: str) -> bool:
    """Whether a loop with an annotation lies within, or is this."""
    found = []

    def visit(part: Any) -> None:
        if is_annotated(part, annotation):
            found.append(part)

    changed(stmt, visit)
    return bool(found)


def _pipelined_loop(loop: Any, once: Sequence[Any], rings: list[Ring]) -> Any:
    from tvm import tirx

    steps = list(loop.body.seq)
    loads, after = int(loop.annotations[LOADS]), int(loop.annotations[LOADS_AFTER])
    if not (0 < loads < len(steps) and 0 < after <= len(steps) - loads):
        raise PipelineError(
            f"a loop of {len(steps)} steps says that {loads} of them load, after {after} of the "
            "others; some must load, some must compute, and at least one of these comes first"
        )
    if PRODUCER in loop.annotations:
        raise PipelineError(
            f"a loop with {PRODUCER} has loads of a warpgroup of its own, which needs a grid that "
            f"persists: annotate it with {PERSISTENT} too"
        )
    if BULK in loop.annotations:
        rewritten = ringed(loop, once, steps[:loads], steps[loads:], after, rings)
    elif OVERLAP in loop.annotations:
        raise PipelineError(
            f"a loop with {OVERLAP} overlaps its products, which needs rings: annotate it with "
            f"{BULK} too; a record that does without is an earlier version's: tune anew"
        )
    else:
        rewritten = across_lanes(prefetched(loop, steps[:loads], steps[loads:], after))
    # What follows may reuse memory that loads still write or other threads still read.
    rewritten = tirx.SeqStmt([rewritten, *joined(steps)])
    min_blocks = loop.annotations.get(MIN_BLOCKS)
    if min_blocks is None:
        return rewritten
    return tirx.AttrStmt(0, LAUNCH_BOUNDS, min_blocks, rewritten)


def _refuse_annotated(stmt: Any) -> None:
    """Refuse a loop whose annotations did not take part in rewriting."""
    for annotation in ALL:
        if is_annotated(stmt, annotation):
            raise PipelineError(
                f"the loop over {stmt.loop_var.name} says {annotation}, and nothing came of it; "
                f"annotate a loop with {LOADS} that lies within no other such loop, and with "
                f"{BULK_ONCE} only a load beside one with {BULK}"
            )
