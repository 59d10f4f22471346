"""Steps of a loop, taken apart and copied: what the orders of a pipeline are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

from ..errors import PipelineError
from ..intrinsics import JOIN, WAIT, with_pending
from .annotations import ALL

if TYPE_CHECKING:
    from tvm.ir import Call


def changed(stmt: Any, change: Callable[[Any], Any]) -> Any:
    """A statement with what ``change`` gives in the place of parts, for those that it gives any.

    It is asked for the statement first and then for what lies within, but not within what it
    replaces.

    Raises
    ------
    PipelineError
        For a kind of statement of which is not known what lies within.
    """
    from tvm import s_tir, tirx

    new = change(stmt)
    if new is not None:
        return new

    def inner(part: Any) -> Any:
        return None if part is None else changed(part, change)

    match stmt:
        case tirx.SeqStmt():
            return tirx.SeqStmt([inner(each) for each in stmt.seq])
        case tirx.IfThenElse():
            return tirx.IfThenElse(stmt.condition, inner(stmt.then_case), inner(stmt.else_case))
        case tirx.AttrStmt():
            return tirx.AttrStmt(stmt.node, stmt.attr_key, stmt.value, inner(stmt.body))
        case tirx.While():
            return tirx.While(stmt.condition, inner(stmt.body))
        case tirx.For():
            return tirx.For(
                stmt.loop_var, stmt.min, stmt.extent, stmt.kind, inner(stmt.body),
                stmt.thread_binding, stmt.annotations, stmt.step,
            )  # fmt: skip
        case s_tir.SBlockRealize():
            return s_tir.SBlockRealize(stmt.iter_values, stmt.predicate, inner(stmt.block))
        case s_tir.SBlock():
            return s_tir.SBlock(
                stmt.iter_vars, stmt.reads, stmt.writes, stmt.name_hint, inner(stmt.body),
                inner(stmt.init), stmt.alloc_buffers, stmt.match_buffers, stmt.annotations,
            )  # fmt: skip
        case (
            tirx.Evaluate() | tirx.BufferStore() | tirx.Bind() | tirx.AllocBuffer()
            | tirx.DeclBuffer() | tirx.AssertStmt() | tirx.Return() | tirx.Break() | tirx.Continue()
        ):  # fmt: skip
            return stmt
    raise PipelineError(
        f"the pipeline does not know the statement {type(stmt).__name__}; schedule without it, or "
        "say in pipeline/steps.py what lies within it"
    )


def serial(loop: Any, var: Any, begin: Any, extent: Any, body: Sequence[Any]) -> Any:
    """The loop over other indices, with another body."""
    from tvm import tirx

    kept = {name: value for name, value in loop.annotations.items() if name not in ALL}
    return tirx.For(var, begin, extent, loop.kind, tirx.SeqStmt(list(body)), annotations=kept)


def over_threads(var: Any, extent: int, name: str, body: Any) -> Any:
    """A loop over threads of a block, ``threadIdx.z`` say."""
    from tvm import tirx

    unbounded: Any = None
    axis = tirx.IterVar(unbounded, tirx.Var("", "int32"), tirx.IterVar.ThreadIndex, name)
    zero, end = tirx.const(0, "int32"), tirx.const(extent, "int32")
    return tirx.For(var, zero, end, tirx.ForKind.THREAD_BINDING, body, axis)


def joined(steps: Sequence[Any]) -> list[Any]:
    """What joins all loads and meets all threads, if any step does such a thing."""
    from tvm import tirx

    return [tirx.Evaluate(call) for each in steps for call in _calls(each, JOIN)][:1]


def waiting(product: Any, pending: int) -> Any:
    """What is left of a product that waits, but for products that need not have ended."""
    from tvm import s_tir, tirx

    def change(part: Any) -> Any:
        if _is_call(part, WAIT):
            return tirx.Evaluate(with_pending(part.value, pending))
        leaf = isinstance(part, (tirx.Evaluate, s_tir.SBlockRealize))
        return _nothing() if leaf and not _calls(part, WAIT) else None

    return changed(product, change)


def without(function: str, step: Any) -> Any:
    """A step without its calls of a function whose name begins so."""
    return changed(step, lambda part: _nothing() if _is_call(part, function) else None)


def sequence(stmts: Sequence[Any]) -> Any:
    """Statements one after another."""
    from tvm import tirx

    return stmts[0] if len(stmts) == 1 else tirx.SeqStmt(list(stmts))


def substituted(expression: Any, values: dict[Any, Any]) -> Any:
    """An expression with values in the place of variables."""
    from tvm import tirx

    function = tirx.PrimFunc(list(values), tirx.Evaluate(expression))
    return function.specialize(values).body.value


def with_equal(value: Any, old: Any, new: Any) -> Any:
    """A value with ``new`` wherever it holds an expression equal to ``old``."""
    import tvm_ffi

    def replaced(each: Any) -> Any:
        return new if tvm_ffi.structural_equal(each, old) else each

    return tvm_ffi.structural_map(value, (type(old), replaced))


def is_annotated(stmt: Any, annotation: str) -> bool:
    """Whether a statement is a loop with an annotation."""
    from tvm import tirx

    return isinstance(stmt, tirx.For) and annotation in stmt.annotations


def other_annotations(stmt: Any, annotation: str) -> dict[str, Any]:
    """What a loop or an sblock says besides an annotation."""
    return {name: value for name, value in stmt.annotations.items() if name != annotation}


def stores_of(*stmts: Any) -> list[Any]:
    """All stores within statements.

    Raises
    ------
    PipelineError
        As :func:`changed` does.
    """
    from tvm import tirx

    found: list[Any] = []

    def visit(part: Any) -> None:
        if isinstance(part, tirx.BufferStore):
            found.append(part)

    for each in stmts:
        changed(each, visit)
    return found


def with_ones(stmt: Any, buffers: Sequence[Any]) -> Any:
    """A statement that stores 1 wherever it stored a factor to one of ``buffers``."""
    from tvm import tirx

    def one(part: Any) -> Any:
        if isinstance(part, tirx.BufferStore) and part.buffer in buffers:
            return tirx.BufferStore(part.buffer, tirx.const(1.0, "float32"), part.indices)
        return None

    return changed(stmt, one)


def int32(value: int) -> Any:
    """A number as TIR has it."""
    from tvm import tirx

    return tirx.const(value, "int32")


def in_other_terms(stmt: Any, values: dict[Any, Any]) -> Any:
    """A statement with values in the place of variables."""
    from tvm import tirx

    return tirx.PrimFunc(list(values), stmt).specialize(values).body


def stored(buffer: Any, value: Any, index: int = 0) -> Any:
    """A statement that stores a value at a place of a buffer."""
    from tvm import tirx

    return tirx.BufferStore(buffer, value, [int32(index)])


def synchronized() -> Any:
    """A barrier of all threads of a block."""
    from tvm import tirx
    from tvm.tirx.op import tvm_storage_sync

    return tirx.Evaluate(tvm_storage_sync("shared"))


def bound_through(memory: Any, value: Any, var: Any, index: int = 0) -> list[Any]:
    """Statements that bind a variable to what was stored in memory: TVM repeats other values."""
    from tvm import tirx

    return [stored(memory, value, index), tirx.Bind(var, memory[index])]


def variables_of(buffers: Sequence[Any]) -> list[Any]:
    """The variables in the sizes of buffers, once each."""
    from tvm.tirx.analysis import undefined_vars

    sizes = (size for buffer in buffers for size in buffer.shape)
    return [*dict.fromkeys(each for size in sizes for each in undefined_vars(size))]


def is_choice(value: Any) -> TypeGuard[Call]:
    """Whether a value is one of two, of which TIR computes the chosen one alone."""
    from tvm.ir import Call

    return isinstance(value, Call) and getattr(value.op, "name", "").endswith("if_then_else")


def _nothing() -> Any:
    from tvm import tirx

    return tirx.Evaluate(tirx.const(0, "int32"))


def _calls(stmt: Any, function: str) -> list[Any]:
    """The calls of a function whose name begins so."""
    found = []

    def visit(part: Any) -> None:
        if _is_call(part, function):
            found.append(part.value)

    changed(stmt, visit)
    return found


def _is_call(stmt: Any, function: str) -> bool:
    from tvm import tirx
    from tvm.ir import Call, StringImm

    if not (isinstance(stmt, tirx.Evaluate) and isinstance(stmt.value, Call)):
        return False
    first = next(iter(stmt.value.args), None)
    return isinstance(first, StringImm) and first.value.startswith(function)


def if_any(loop: Any, steps: Sequence[Any], tile: Any) -> Any:
    """A copy of the steps for another tile, if there is one."""
    from tvm import tirx

    return tirx.IfThenElse(tile < loop.min + loop.extent, at(loop, steps, tile), None)


def at(loop: Any, steps: Sequence[Any], tile: Any, own: Sequence[Any] = ()) -> Any:
    """A copy of the steps, with definitions of its own, for another tile.

    Parameters
    ----------
    own : Sequence[Buffer]
        Of which the copy has others too.
    """
    from tvm import s_tir, tirx

    one = tirx.const(1, loop.loop_var.ty.dtype)
    body = sequence(steps)
    reads, writes = ([each for each in found if each not in own] for found in buffers_of(body))
    if own:
        read, written = ([*map(whole, dict.fromkeys(each))] for each in (reads, writes))
        block = s_tir.SBlock([], read, written, "own", body, None, [*own])
        body = s_tir.SBlockRealize([], True, block)
    single = tirx.For(loop.loop_var, loop.min, one, tirx.ForKind.SERIAL, body)
    nest = renewed(single, [*dict.fromkeys([*reads, *writes])])
    # A loop of one iteration puts another index in the place of the loop variable.
    shifted = tirx.For(nest.loop_var, tile, one, tirx.ForKind.SERIAL, nest.body)
    # In an sblock a buffer has one writer, as a reduction over threads must have.
    reads, writes = ([*map(whole, dict.fromkeys(each))] for each in (reads, writes))
    return s_tir.SBlockRealize([], True, s_tir.SBlock([], reads, writes, "tile", shifted))


def renewed(stmt: Any, outer: Sequence[Any]) -> Any:
    """A copy of a statement with definitions of its own, but for the buffers ``outer``."""
    from tvm import s_tir, tirx

    sizes = variables_of(outer)
    copy = s_tir.renew_defs(tirx.PrimFunc([*sizes, *outer], stmt))
    # What is defined outside is to stay the same: it was parameters of the copy, and takes the
    # place of the new ones that it was given. Sizes first: of a buffer as long as the sum of two
    # they do not follow.
    new, buffers = copy.params[: len(sizes)], copy.params[len(sizes) :]
    both = tirx.PrimFunc([*new, *buffers, *sizes, *outer], copy.body)
    both = both.specialize(dict(zip(new, sizes, strict=True)))
    return both.specialize(dict(zip(both.params[: len(outer)], outer, strict=True))).body


def buffers_of(stmt: Any) -> tuple[list[Any], list[Any]]:
    """The buffers that the sblocks of a statement read, and those that they write."""
    from tvm import s_tir

    reads, writes = [], []

    def visit(part: Any) -> Any:
        if not isinstance(part, s_tir.SBlockRealize):
            return None
        reads.extend(region.source for region in part.block.reads)
        writes.extend(region.source for region in part.block.writes)
        return part

    changed(stmt, visit)
    return reads, writes


def whole(buffer: Any) -> Any:
    """All of a buffer, as a region."""
    from tvm import tirx
    from tvm.ir import Range
    from tvm.tirx.stmt import BufferRegion

    zero = tirx.const(0, "int32")
    return BufferRegion(buffer, [Range(zero, extent) for extent in buffer.shape])
