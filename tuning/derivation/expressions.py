"""What the passes ask of an expression, and how they change one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.ir import Call, TensorLoad, Var
from tvm.sym import Analyzer

#: A TIR expression.
Expr = Any

#: A buffer: a variable of TVM's with a shape.
Buffer = Any

#: A load of a buffer.
Load = Any


def substituted(expr: Expr, values: Mapping[Var, Expr]) -> Expr:
    """``expr`` with ``values`` in place of variables."""
    exprs = {var: tirx.const(e, "int32") if isinstance(e, int) else e for var, e in values.items()}
    return tvm_ffi.structural_map(expr, (Var, lambda var: exprs.get(var, var)))


def with_loads(expr: Expr, changed: Callable[[Load], Expr]) -> Expr:
    """``expr`` with ``changed(load)`` in place of every load."""
    return tvm_ffi.structural_map(expr, (TensorLoad, changed))


def with_equal(expr: Expr, old: Expr, new: Expr) -> Expr:
    """``expr`` with ``new`` wherever it holds an expression equal to ``old``."""
    return tvm_ffi.structural_map(expr, (type(old), lambda each: new if equal(each, old) else each))


def with_calls(expr: Expr, functions: Mapping[str, Callable[[Expr], Expr]]) -> Expr:
    """``expr`` with ``functions[name](argument)`` in place of calls of TIR's own ``name``."""

    def changed(call: Call) -> Expr:
        function = functions.get(called(call))
        return call if function is None else function(call.args[0])

    return tvm_ffi.structural_map(expr, (Call, changed))


def element(buffer: Buffer, indices: Sequence[Expr]) -> Load:
    """What ``buffer`` holds at ``indices``."""
    return tirx.BufferLoad(buffer, list(indices))


def called(call: Call) -> str:
    """The name of what ``call`` calls, ``exp2`` say, if it is TIR's own."""
    return getattr(call.op, "name", "").rsplit(".", 1)[-1]


def found(expr: Expr, kind: type) -> list[Any]:
    """What ``expr`` holds of ``kind``, the innermost first."""
    all_found: list[Any] = []
    tvm_ffi.structural_map(expr, (kind, lambda each: (all_found.append(each), each)[1]))
    return all_found


def loads(expr: Expr) -> list[Load]:
    """The loads of ``expr``, innermost first."""
    return found(expr, TensorLoad)


def reads(expr: Expr, buffer: Buffer) -> bool:
    """Whether ``expr`` loads anything of ``buffer``."""
    return any(load.source.same_as(buffer) for load in loads(expr))


def depends(expr: Expr, var: Var) -> bool:
    """Whether ``expr`` holds ``var``."""
    return any(each.same_as(var) for each in variables(expr))


def variables(expr: Expr) -> list[Var]:
    """The variables of ``expr``, those of the buffers that it loads among them."""
    return found(expr, Var)


def conjuncts(condition: Expr) -> list[Expr]:
    """What must hold for ``condition`` to hold."""
    both: Any = condition
    if isinstance(condition, tirx.And):
        return conjuncts(both.a) + conjuncts(both.b)
    return [condition]


def equal(one: Expr, other: Expr) -> bool:
    """Whether two expressions are of the same form, in the same variables."""
    return tvm_ffi.structural_equal(one, other)


def dtype_of(expr: Expr) -> str:
    """Of an expression, or of the elements of a buffer."""
    return expr.ty.dtype


def new_buffer(shape: Sequence[Expr], dtype: str, name: str) -> Buffer:
    """A buffer in the default scope, as TVMScript allocates one."""
    plain: Any = None  # what TVMScript calls a layout is for buffers of other kinds
    return tirx.decl_buffer(shape, dtype, name, layout=plain)


def same_value(one: Expr, other: Expr) -> bool:
    """Whether two expressions are equal once simplified."""
    analyzer = Analyzer()
    simple = [analyzer.simplify(tirx.convert(each)) for each in (one, other)]
    return equal(simple[0], simple[1])
