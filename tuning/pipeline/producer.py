"""A warpgroup of a block that starts all loads, while the others compute and do nothing else.

One of its threads waits for slots of rings to be free, far ahead of where tiles are used; where a
thread that computes does so, its warpgroup waits with it for the slower one. Its other warps write
tiles of the output of which there is nothing to compute. What registers the warpgroup does not
need, the others have (as in FlashAttention-3, Shah et al. 2024, section 3.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import PipelineError
from ..intrinsics import WARPGROUP, registers
from .steps import changed, in_other_terms, over_threads, sequence

#: Warps of the warpgroup that loads, none of whose threads does.
IDLE = WARPGROUP - 1


def divided(
    computing: Sequence[Any], loading: Any, idle: Callable[[Any], Any], warps: int, blocks: int
) -> Any:
    """What warps of a block compute, what one thread behind them loads, and what is left to do.

    Parameters
    ----------
    computing : sequence of Stmt
        May have loops bound to ``threadIdx.z``, over the warps that compute.
    loading : Stmt
        Of one thread.
    idle : Callable
        From the number of a warp beside that thread's, of :data:`IDLE`, to what it does.
    warps : int
        That compute.
    blocks : int
        That a multiprocessor shall hold.

    Raises
    ------
    PipelineError
        If those that compute are no whole warpgroups.
    """
    from tvm import tirx

    if warps % WARPGROUP:
        raise PipelineError(
            f"{warps} warps that compute cannot be given the registers of those that load: that is "
            f"done by warpgroups, {WARPGROUP} warps each"
        )
    warp = tirx.Var("warp", "int32")
    first: Any = tirx.const(warps, "int32")
    count = registers.left_over(blocks, warps // WARPGROUP)
    computes = [tirx.Evaluate(registers.take(count)), *(on_warp(each, warp) for each in computing)]
    others = tirx.IfThenElse(
        warp > first, idle(warp - first - 1), _by_the_first(warp, first, loading)
    )
    either = tirx.IfThenElse(
        warp < first,
        sequence(computes),
        tirx.SeqStmt([tirx.Evaluate(registers.leave()), others]),
    )
    return over_threads(warp, warps + WARPGROUP, "threadIdx.z", either)


def spread(stmts: Sequence[Any], warp: Any, warps: int) -> Any:
    """Steps with loops over ``warps`` warps, done by :data:`IDLE` others, of which this is one."""
    from tvm import tirx

    part: Any = tirx.Var("part", "int32")
    other = part * IDLE + warp
    done = [on_warp(each, other) for each in stmts]
    some = tirx.IfThenElse(other < warps, sequence(done), None)
    zero, parts = tirx.const(0, "int32"), tirx.const(-(-warps // IDLE), "int32")
    return tirx.For(part, zero, parts, tirx.ForKind.SERIAL, some)


def _by_the_first(warp: Any, number: Any, stmt: Any) -> Any:
    """A statement of the first thread of a warp."""
    from tvm import tirx

    x, y = (tirx.Var(name, "int32") for name in "xy")
    zero = tirx.const(0, "int32")
    only = tirx.all(tirx.EQ(warp, number), tirx.EQ(x, zero), tirx.EQ(y, zero))
    stmt = tirx.IfThenElse(only, stmt, None)
    return over_threads(y, 8, "threadIdx.y", over_threads(x, 4, "threadIdx.x", stmt))


def on_warp(stmt: Any, warp: Any) -> Any:
    """A statement with ``warp`` in the place of its loops over warps."""
    from tvm import tirx

    def change(part: Any) -> Any:
        binding = part.thread_binding if isinstance(part, tirx.For) else None
        if binding is None or binding.thread_tag != "threadIdx.z":
            return None
        return in_other_terms(part.body, {part.loop_var: warp})

    return changed(stmt, change)
