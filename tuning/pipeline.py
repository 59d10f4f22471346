"""Loading the next tile while one is computed with, in a loop that keeps one copy of what computes.

TVM's ``InjectSoftwarePipeline`` emits copies of every step before and behind the loop, which cost a
kernel full of tensor-core accumulators its registers. Here the loads alone are copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

#: Annotation of a loop: how many of its first steps load what the others use.
LOADS = "prefill.loads"

#: Annotation of such a loop: how many of the other steps come before the loads of the next tile.
LOADS_AFTER = "prefill.loads_after"

#: Annotation of a loop: thread blocks that one multiprocessor shall hold, which bounds registers.
MIN_BLOCKS = "prefill.min_blocks"

_LAUNCH_BOUNDS = "tirx.launch_bounds_min_blocks_per_sm"


def pipeline(module: Any) -> Any:
    """Rewrite the annotated loops of every function of a scheduled module.

    ``for t in range(n): load(t); first(t); rest(t)`` becomes
    ``if n > 0: load(0)``, then ``for t in range(n): first(t); if t + 1 < n: load(t + 1); rest(t)``.
    What is computed stays the same; a module without annotations is returned as it is.

    Raises
    ------
    ValueError
        If the annotations do not fit the loop.
    """
    import tvm
    from tvm.tirx import PrimFunc

    def rewritten(function: Any) -> Any:
        if not isinstance(function, PrimFunc):
            return function
        return function.with_body(_rewrite(function.body))  # pyright: ignore[reportAttributeAccessIssue]

    functions = {name: rewritten(each) for name, each in module.functions.items()}
    return tvm.IRModule(functions, attrs=module.attrs)


def _rewrite(stmt: Any) -> Any:
    from tvm import s_tir, tirx

    if isinstance(stmt, tirx.For):
        if LOADS in stmt.annotations:
            return _pipelined(stmt)
        body = _rewrite(stmt.body)
        if body is stmt.body:
            return stmt
        return tirx.For(
            stmt.loop_var, stmt.min, stmt.extent, stmt.kind, body,
            stmt.thread_binding, stmt.annotations, stmt.step,
        )  # fmt: skip
    if isinstance(stmt, tirx.SeqStmt):
        steps = [_rewrite(each) for each in stmt.seq]
        if all(new is old for new, old in zip(steps, stmt.seq, strict=True)):
            return stmt
        return tirx.SeqStmt(steps)
    if isinstance(stmt, s_tir.SBlockRealize):
        block = stmt.block
        body = _rewrite(block.body)
        if body is block.body:
            return stmt
        inner = s_tir.SBlock(
            block.iter_vars, block.reads, block.writes, block.name_hint, body,
            block.init, block.alloc_buffers, block.match_buffers, block.annotations,
        )  # fmt: skip
        return s_tir.SBlockRealize(stmt.iter_values, stmt.predicate, inner)
    return stmt


def _pipelined(loop: Any) -> Any:
    from tvm import tirx

    steps = list(loop.body.seq)
    loads, after = int(loop.annotations[LOADS]), int(loop.annotations[LOADS_AFTER])
    if not (0 < loads < len(steps) and 0 < after <= len(steps) - loads):
        raise ValueError(
            f"a loop of {len(steps)} steps says that {loads} of them load, after {after} of the "
            "others; some must load, some must compute, and at least one of these comes first"
        )
    load, first, rest = steps[:loads], steps[loads : loads + after], steps[loads + after :]
    end = loop.min + loop.extent
    body = [*first, _load(loop, load, loop.loop_var + 1, end), *rest]
    ours = (LOADS, LOADS_AFTER, MIN_BLOCKS)
    kept = {name: value for name, value in loop.annotations.items() if name not in ours}
    rewritten = tirx.SeqStmt(
        [
            _load(loop, load, loop.min, end),
            tirx.For(
                loop.loop_var,
                loop.min,
                loop.extent,
                loop.kind,
                tirx.SeqStmt(body),
                annotations=kept,
            ),
        ]
    )
    min_blocks = loop.annotations.get(MIN_BLOCKS)
    if min_blocks is None:
        return rewritten
    return tirx.AttrStmt(0, _LAUNCH_BOUNDS, min_blocks, rewritten)


def _load(loop: Any, load: Sequence[Any], tile: Any, end: Any) -> Any:
    """A copy of the loads, with definitions of its own, for another tile; if there is one."""
    from tvm import s_tir, tirx

    one = tirx.const(1, loop.loop_var.ty.dtype)
    body = load[0] if len(load) == 1 else tirx.SeqStmt(list(load))
    single = tirx.For(loop.loop_var, loop.min, one, tirx.ForKind.SERIAL, body)
    reads, writes = _regions(single)
    whole = [*reads, *writes]
    copy = s_tir.renew_defs(tirx.PrimFunc([each.source for each in whole], single))
    # A loop of one iteration puts another index in the place of the loop variable.
    nest = tirx.For(copy.body.loop_var, tile, one, tirx.ForKind.SERIAL, copy.body.body)
    # Renewed with the definitions are the buffers from outside: they become views of these.
    views = [
        s_tir.MatchBufferRegion(view, each) for view, each in zip(copy.params, whole, strict=True)
    ]
    block = s_tir.SBlock([], reads, writes, "load", nest, match_buffers=views)
    return tirx.IfThenElse(tile < end, s_tir.SBlockRealize([], True, block), None)


def _regions(stmt: Any) -> tuple[list[Any], list[Any]]:
    """All of every buffer that a nest of loops around sblocks reads, and writes."""
    from tvm import s_tir, tirx

    if isinstance(stmt, tirx.For):
        return _regions(stmt.body)
    if isinstance(stmt, tirx.SeqStmt):
        reads, writes = zip(*map(_regions, stmt.seq), strict=True)
        return [*chain(*reads)], [*chain(*writes)]
    assert isinstance(stmt, s_tir.SBlockRealize)
    block = stmt.block
    return [_whole(each) for each in block.reads], [_whole(each) for each in block.writes]


def _whole(region: Any) -> Any:
    from tvm import tirx
    from tvm.ir import Range
    from tvm.tirx.stmt import BufferRegion

    buffer = region.source
    zero = tirx.const(0, "int32")
    return BufferRegion(buffer, [Range(zero, extent) for extent in buffer.shape])
