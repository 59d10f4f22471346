"""A software pipeline that keeps one copy of every step of a loop.

TVM's ``InjectSoftwarePipeline`` emits a prologue and an epilogue, copies of the loop's steps that
cost a kernel full of tensor-core accumulators its registers. Here the loop runs a few iterations
longer instead, and each step runs in the iterations that are its own. The kernels computed by a
loop annotated for this pass are the same before and after it: the pass makes them faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

#: Annotations of a loop: how many iterations later each of its steps runs, and in which order the
#: steps run within an iteration (indices of steps).
STAGES, ORDER = "prefill.pipeline_stages", "prefill.pipeline_order"


def pipeline(module: Any) -> Any:
    """Rewrite the annotated loops of every function of a scheduled module.

    ``for t in range(n): a(t); b(t)`` with stages ``[0, 1]`` and order ``[1, 0]`` becomes
    ``for t in range(n + 1): if t > 0: b(t - 1)`` followed by ``if t < n: a(t)``.

    Raises
    ------
    ValueError
        If the annotations do not fit the loop.
    """
    import tvm

    functions = {name: func.with_body(_rewrite(func.body)) for name, func in module.functions.items()}
    return tvm.IRModule(functions, attrs=module.attrs)


def _rewrite(stmt: Any) -> Any:
    from tvm import s_tir, tirx

    if isinstance(stmt, tirx.For):
        if STAGES in stmt.annotations:
            return _pipelined(stmt)
        return tirx.For(
            stmt.loop_var, stmt.min, stmt.extent, stmt.kind, _rewrite(stmt.body),
            stmt.thread_binding, stmt.annotations, stmt.step,
        )  # fmt: skip
    if isinstance(stmt, tirx.SeqStmt):
        return tirx.SeqStmt([_rewrite(each) for each in stmt.seq])
    if isinstance(stmt, s_tir.SBlockRealize):
        block = stmt.block
        inner = s_tir.SBlock(
            block.iter_vars, block.reads, block.writes, block.name_hint, _rewrite(block.body),
            block.init, block.alloc_buffers, block.match_buffers, block.annotations,
        )  # fmt: skip
        return s_tir.SBlockRealize(stmt.iter_values, stmt.predicate, inner)
    return stmt


def _pipelined(loop: Any) -> Any:
    from tvm import tirx

    steps = list(loop.body.seq)
    stages = [int(each) for each in loop.annotations[STAGES]]
    order = [int(each) for each in loop.annotations[ORDER]]
    if len(stages) != len(steps) or sorted(order) != list(range(len(steps))):
        raise ValueError(
            f"a loop of {len(steps)} steps is annotated with stages {stages} and order {order}; "
            "give one stage for each step and an order that names each step once"
        )
    last = max(stages)
    counter = tirx.Var(loop.loop_var.name, loop.loop_var.ty)
    body = [
        _at_stage(loop, counter, stage, last, [steps[index] for index in indices])
        for stage, indices in groupby(order, key=lambda index: stages[index])
    ]
    kept = {name: value for name, value in loop.annotations.items() if name not in (STAGES, ORDER)}
    return tirx.For(
        counter, loop.min, loop.extent + last, loop.kind, _sequence(body), annotations=kept
    )


def _at_stage(loop: Any, counter: Any, stage: int, last: int, steps: Sequence[Any]) -> Any:
    """``steps`` as they run ``stage`` iterations late, where they have an iteration to run."""
    from tvm import tirx

    # A loop of one iteration puts another index in the place of the loop variable.
    body = tirx.For(
        loop.loop_var, counter - stage, 1, tirx.ForKind.SERIAL, _sequence(steps)
    )
    begun, ended = counter >= loop.min + stage, counter >= loop.min + loop.extent + stage
    if stage == 0:
        return tirx.IfThenElse(tirx.Not(ended), body, None) if last else body
    if stage == last:
        return tirx.IfThenElse(begun, body, None)
    return tirx.IfThenElse(tirx.all(begun, tirx.Not(ended)), body, None)


def _sequence(steps: Sequence[Any]) -> Any:
    from tvm import tirx

    return steps[0] if len(steps) == 1 else tirx.SeqStmt(list(steps))
