"""A scope of TVM's around statements that bind what they read of memory of their own."""

from __future__ import annotations

from typing import Any

from .steps import changed

#: TVM's attribute around memory that is read where no loop and no condition is around: without it,
#: it refuses to lay out shared memory.
SCOPE = "extern_scope"


def scoped(stmt: Any) -> Any:
    """``stmt`` with a scope in each sblock that binds what it reads of its own buffers.

    All others of its buffers go into the scope: TVM finds no memory for one that another no longer
    needs where both outlast the scope that they are used in.
    """
    from tvm import s_tir, tirx

    def change(part: Any) -> Any:
        if not isinstance(part, s_tir.SBlock):
            return None
        bound = _bound_of_its_own(part)
        if not bound:
            return None
        zero = tirx.const(0, "int32")
        others = [each for each in part.alloc_buffers if not any(map(each.same_as, bound))]
        within = s_tir.SBlock(
            [], [], [], f"{part.name_hint}_scope", part.body, alloc_buffers=others
        )
        return s_tir.SBlock(
            part.iter_vars, part.reads, part.writes, part.name_hint,
            tirx.AttrStmt(zero, SCOPE, zero, s_tir.SBlockRealize([], True, within)),
            part.init, bound, part.match_buffers, part.annotations,
        )  # fmt: skip

    return changed(stmt, change)


def _bound_of_its_own(block: Any) -> list[Any]:
    """The buffers of a block that what it binds is read of."""
    from tvm import tirx
    from tvm.ir import TensorLoad

    stmts = block.body.seq if isinstance(block.body, tirx.SeqStmt) else []
    values = [each.value for each in stmts if isinstance(each, tirx.Bind)]
    read = [value.source for value in values if isinstance(value, TensorLoad)]
    return [each for each in block.alloc_buffers if any(map(each.same_as, read))]
