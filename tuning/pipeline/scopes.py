"""A scope of TVM's around statements that bind what they read of memory of their own."""

from __future__ import annotations

from typing import Any

from .steps import changed

#: TVM's attribute around memory that is read where no loop and no condition is around: without it,
#: it refuses to lay out shared memory.
SCOPE = "extern_scope"


def scoped(stmt: Any) -> Any:
    """``stmt`` with a scope in each sblock that binds what it reads of its own buffers."""
    from tvm import s_tir, tirx

    def change(part: Any) -> Any:
        if not (isinstance(part, s_tir.SBlock) and _binds_its_own(part)):
            return None
        zero = tirx.const(0, "int32")
        return s_tir.SBlock(
            part.iter_vars, part.reads, part.writes, part.name_hint,
            tirx.AttrStmt(zero, SCOPE, zero, part.body),
            part.init, part.alloc_buffers, part.match_buffers, part.annotations,
        )  # fmt: skip

    return changed(stmt, change)


def _binds_its_own(block: Any) -> bool:
    from tvm import tirx
    from tvm.ir import TensorLoad

    stmts = block.body.seq if isinstance(block.body, tirx.SeqStmt) else []
    bound = (each.value for each in stmts if isinstance(each, tirx.Bind))
    return any(
        isinstance(value, TensorLoad) and any(map(value.source.same_as, block.alloc_buffers))
        for value in bound
    )
