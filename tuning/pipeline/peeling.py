"""The last step of a loop, written out where it does less than the others.

A loop over tiles that do not divide an extent asks in every step which elements there are: neither
are its tiles held in registers, nor its vectors loaded whole. The last step alone is partial.
"""

from __future__ import annotations

from typing import Any

from .annotations import PEEL
from .steps import at, changed, is_annotated, other_annotations


def peeled(stmt: Any) -> Any:
    """An annotated loop, its last step behind it where that is partial; None for anything else."""
    from tvm import tirx

    if not is_annotated(stmt, PEEL):
        return None
    kept = other_annotations(stmt, PEEL)
    begin: Any = stmt.min
    extent: Any = stmt.extent
    whole = int(extent) - _is_partial(stmt)
    loop = tirx.For(
        stmt.loop_var, begin, tirx.const(whole, "int32"), stmt.kind, stmt.body, None, kept
    )
    if whole == int(extent):
        return loop
    last = at(stmt, [stmt.body], begin + whole, own=_registers(stmt))
    if kept:  # it is a step of the loop in all else that is said of it
        step = tirx.Var(stmt.loop_var.name, "int32")
        one = tirx.const(1, "int32")
        last = tirx.For(step, begin + whole, one, stmt.kind, last, None, kept)
    return tirx.SeqStmt([loop, last]) if whole else last


def _is_partial(loop: Any) -> bool:
    """Whether what a step does depends on which it is."""
    from tvm import s_tir
    from tvm.tirx.analysis import undefined_vars

    found = []

    def visit(part: Any) -> None:
        if isinstance(part, s_tir.SBlockRealize):
            found.extend(undefined_vars(part.predicate))

    changed(loop, visit)
    return any(each.same_as(loop.loop_var) for each in found)


def _registers(loop: Any) -> list[Any]:
    """The tiles that a step has for itself."""
    from tvm import s_tir

    found: list[Any] = []

    def visit(part: Any) -> None:
        if isinstance(part, s_tir.SBlock):
            written: list[Any] = [region.source for region in part.writes]
            found.extend(each for each in written if each.scope() == "local")

    changed(loop, visit)
    return [*dict.fromkeys(found)]
