"""A warpgroup of a block that starts all loads, while the others compute and do nothing else.

One of its threads waits for slots of rings to be free, far ahead of where tiles are used; where a
thread that computes does so, its warpgroup waits with it for the slower one. What registers the
warpgroup does not need, the others have (as in FlashAttention-3, Shah et al. 2024, section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import PipelineError
from ..intrinsics import WARPGROUP, registers
from .steps import changed, sequence


def divided(computing: Sequence[Any], loading: Sequence[Any], warps: int, blocks: int) -> Any:
    """What ``warps`` warps of a block compute, and what the one behind them loads.

    Parameters
    ----------
    computing, loading : sequence of Stmt
        The former may have loops bound to ``threadIdx.z``, over the warps that compute.
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

    warp, zero = tirx.Var("warp", "int32"), tirx.const(0, "int32")
    first: Any = tirx.const(warps, "int32")
    count = registers.left_over(blocks, warps // WARPGROUP)
    computes = [tirx.Evaluate(registers.take(count)), *(_on(each, warp) for each in computing)]
    loads = tirx.IfThenElse(tirx.EQ(warp, first), sequence(loading), None)
    either = tirx.IfThenElse(
        warp < first,
        sequence(computes),
        tirx.SeqStmt([tirx.Evaluate(registers.leave()), loads]),
    )
    unbounded: Any = None
    axis = tirx.IterVar(unbounded, tirx.Var("", "int32"), tirx.IterVar.ThreadIndex, "threadIdx.z")
    extent = tirx.const(warps + WARPGROUP, "int32")
    return tirx.For(warp, zero, extent, tirx.ForKind.THREAD_BINDING, either, axis)


def _on(stmt: Any, warp: Any) -> Any:
    """A statement with ``warp`` in the place of its loops over warps."""
    from tvm import tirx

    def change(part: Any) -> Any:
        binding = part.thread_binding if isinstance(part, tirx.For) else None
        if binding is None or binding.thread_tag != "threadIdx.z":
            return None
        function = tirx.PrimFunc([part.loop_var], part.body)
        return function.specialize({part.loop_var: warp}).body

    return changed(stmt, change)
