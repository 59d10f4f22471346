"""What depends on the sizes of a call is worked out once, where a kernel serves every size.

A variable that is bound to an expression is that expression to TVM, whose passes and code
generators put it into all that reads it, simplify what comes of that, and try to prove what signs
it has. A choice or a division by a size that nobody knows yet does not get simpler, and is gone
through again in each index of a kernel. What is loaded from memory they leave alone, and compilers
keep such memory in registers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .steps import bound_through, changed, variables_of


def known_once(function: Any) -> Any:
    """A function that loads what it chooses or divides by sizes that are variables.

    Other values stay bound: a bound that is no choice merges with those that it meets, and where
    sizes are numbers, so does a choice.
    """
    from tvm.tirx.buffer import BufferType

    tensors = [each for each in function.params if isinstance(each.ty, BufferType)]
    sizes = frozenset(variables_of(tensors))
    # A processor has memory of the scope "local" too, which costs a call for every tile.
    once = _Once(sizes, "local" if _has_threads(function.body) else "global")
    return function.with_body(changed(function.body, once.of))


@dataclass(frozen=True)
class _Once:
    """What is worked out once.

    Parameters
    ----------
    sizes : frozenset of tirx.Var
        Those that are variables.
    scope : str
        TVM's, of memory that compilers keep in registers.
    """

    sizes: frozenset[Any]
    scope: str

    def of(self, stmt: Any) -> Any:
        """An sblock that loads what it binds and what its variables are; None for others."""
        from tvm import s_tir, tirx

        if not isinstance(stmt, s_tir.SBlockRealize):
            return None
        block, within, around = stmt.block, [], []

        def change(part: Any) -> Any:
            if isinstance(part, tirx.Bind) and self._is_costly(part.value):
                return tirx.SeqStmt(self._loaded(part.var, part.value, within))
            return self.of(part)

        body = changed(block.body, change)
        values, bound = list(stmt.iter_values), []
        for index, value in enumerate(values):
            if self._is_costly(value):
                values[index] = tirx.Var(block.iter_vars[index].var.name, value.ty)
                bound += self._loaded(values[index], value, around)
        realize = s_tir.SBlockRealize(
            values, stmt.predicate,
            s_tir.SBlock(
                block.iter_vars, block.reads, block.writes, block.name_hint, body, block.init,
                [*block.alloc_buffers, *within], block.match_buffers, block.annotations,
            ),
        )  # fmt: skip
        if not bound:
            return realize
        outer = s_tir.SBlock([], [], [], "", tirx.SeqStmt([*bound, realize]), alloc_buffers=around)
        return s_tir.SBlockRealize([], True, outer)

    def _is_costly(self, value: Any) -> bool:
        import tvm_ffi
        from tvm import tirx
        from tvm.tirx.analysis import undefined_vars

        if self.sizes.isdisjoint(undefined_vars(value)):
            return False
        kinds = (tirx.Select, tirx.FloorDiv, tirx.FloorMod)
        return tvm_ffi.structural_walk(value, (kinds, tvm_ffi.VisitInterrupt)) is not None

    def _loaded(self, var: Any, value: Any, memory: list[Any]) -> list[Any]:
        """Statements that bind a variable to what was stored in memory, which is added to some."""
        from tvm import tirx

        place = tirx.decl_buffer((1,), value.ty.dtype, var.name, scope=self.scope)
        memory.append(place)
        return bound_through(place, value, var)


def _has_threads(stmt: Any) -> bool:
    """Whether loops are bound to threads of a GPU."""
    from tvm import tirx

    bound = []

    def visit(part: Any) -> None:
        if isinstance(part, tirx.For) and part.thread_binding is not None:
            bound.append(part)

    changed(stmt, visit)
    return bool(bound)
