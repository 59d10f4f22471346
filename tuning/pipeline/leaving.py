"""Blocks that have nothing to write return at once.

A description goes on with the next tile of queries where nothing of one is written. Where each tile
has a block of its own, there is no next one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .steps import changed


def left_early(stmt: Any) -> Any:
    """Loops bound to blocks, in which a block returns where it would go on with the next tile."""
    from tvm import tirx

    def leave(part: Any) -> Any:
        return tirx.Evaluate(tirx.op.thread_return()) if is_continue(part) else None

    return within_blocks(stmt, leave)


def within_blocks(stmt: Any, change: Callable[[Any], Any]) -> Any:
    """A loop bound to blocks, its body changed part by part; None where this is no such loop."""
    from tvm import tirx

    if not is_bound_to_blocks(stmt):
        return None
    return tirx.For(
        stmt.loop_var, stmt.min, stmt.extent, stmt.kind, changed(stmt.body, change),
        stmt.thread_binding, stmt.annotations, stmt.step,
    )  # fmt: skip


def is_bound_to_blocks(stmt: Any) -> bool:
    """Whether this is a loop over blocks of the grid."""
    from tvm import tirx

    binding = stmt.thread_binding if isinstance(stmt, tirx.For) else None
    return binding is not None and binding.thread_tag.startswith("blockIdx")


def skipped(stmt: Any) -> tuple[Any, list[Any]] | None:
    """Where a tile is skipped, and what is done for it; None if this skips none."""
    from tvm import tirx

    if not isinstance(stmt, tirx.IfThenElse):
        return None
    within = stmt.then_case
    *done, last = within.seq if isinstance(within, tirx.SeqStmt) else [within]
    return (stmt.condition, done) if is_continue(last) else None


def is_continue(stmt: Any) -> bool:
    """Whether this goes on with the next iteration of the loop around it."""
    from tvm import tirx
    from tvm.ir import Call

    call: Any = stmt.value if isinstance(stmt, tirx.Evaluate) else None
    return isinstance(call, Call) and call.op.same_as(tirx.op.continue_loop().op)
