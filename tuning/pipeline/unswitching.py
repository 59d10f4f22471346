"""Steps that choose by what is the same for all of their elements: it is asked once.

Whether a tile of packed rows has keys is known before it begins, and is asked where it becomes
output. Compilers make a select of it for each element.
"""

from __future__ import annotations

from typing import Any

from .steps import buffers_of, changed, is_choice, renewed, with_equal


def unswitched(stmt: Any) -> Any:
    """Loops around a store that chooses so, as a choice of loops; None for anything else."""
    from tvm import s_tir, tirx
    from tvm.tirx.analysis import undefined_vars

    inner, inside = stmt, []
    while isinstance(inner, tirx.For):
        inside.append(inner.loop_var)
        inner = inner.body
    if not (inside and isinstance(inner, s_tir.SBlockRealize)):
        return None
    store: Any = inner.block.body
    inside += [each.var for each in inner.block.iter_vars]
    choices = _choices(store.value) if isinstance(store, tirx.BufferStore) else []
    if len(choices) != 1 or inner.block.init is not None:
        return None
    condition, *values = choices[0].args
    if any(var.same_as(each) for var in undefined_vars(condition) for each in inside):
        return None

    def with_value(value: Any) -> Any:
        chosen = tirx.BufferStore(
            store.buffer, with_equal(store.value, choices[0], value), store.indices
        )
        return changed(stmt, lambda part: chosen if isinstance(part, tirx.BufferStore) else None)

    then, other = map(with_value, values)
    reads, writes = buffers_of(other)
    return tirx.IfThenElse(condition, then, renewed(other, [*dict.fromkeys([*reads, *writes])]))


def _choices(value: Any) -> list[Any]:
    """The choices in a value by what is not read from memory."""
    import tvm_ffi
    from tvm.ir import Call, TensorLoad

    found: list[Any] = []

    def visit(call: Any) -> None:
        if is_choice(call):
            found.append(call)

    def is_read(condition: Any) -> bool:
        return tvm_ffi.structural_walk(condition, (TensorLoad, tvm_ffi.VisitInterrupt)) is not None

    tvm_ffi.structural_walk(value, (Call, visit))
    return [each for each in found if not is_read(each.args[0])]
