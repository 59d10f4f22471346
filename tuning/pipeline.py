"""Loading the next tile while one is computed with, in a loop that keeps one copy of every step.

TVM's ``InjectSoftwarePipeline`` emits a prologue and an epilogue: copies of the loop's steps, which
cost a kernel full of tensor-core accumulators its registers. Here the loop runs one iteration
longer instead, and each step runs in the iterations that are its own.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    ``for t in range(n + 1): if t > 0: first(t - 1); if t < n: load(t); if t > 0: rest(t - 1)``.
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
    loaded = tirx.Var(loop.loop_var.name, loop.loop_var.ty)
    begun, ended = loaded > loop.min, loaded >= loop.min + loop.extent

    one = tirx.const(1, loop.loop_var.ty.dtype)

    def at(tile: Any, some: Sequence[Any], condition: Any) -> Any:
        # A loop of one iteration puts another index in the place of the loop variable.
        body = tirx.For(loop.loop_var, tile, one, tirx.ForKind.SERIAL, _sequence(some))
        return tirx.IfThenElse(condition, body, None)

    body = [at(loaded - 1, first, begun), at(loaded, load, tirx.Not(ended))]
    if rest:
        body.append(at(loaded - 1, rest, begun))
    ours = (LOADS, LOADS_AFTER, MIN_BLOCKS)
    kept = {name: value for name, value in loop.annotations.items() if name not in ours}
    rewritten = tirx.For(
        loaded, loop.min, loop.extent + 1, loop.kind, tirx.SeqStmt(body), annotations=kept
    )
    min_blocks = loop.annotations.get(MIN_BLOCKS)
    if min_blocks is None:
        return rewritten
    return tirx.AttrStmt(0, _LAUNCH_BOUNDS, min_blocks, rewritten)


def _sequence(steps: Sequence[Any]) -> Any:
    from tvm import tirx

    return steps[0] if len(steps) == 1 else tirx.SeqStmt(list(steps))
