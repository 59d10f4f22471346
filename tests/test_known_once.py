"""Kernels for every size load what they choose and divide by sizes; all others stay as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import TensorLoad
from tvm.s_tir import Schedule
from tvm.script import tirx as T

from prefilltune.tuning.pipeline import pipeline


@T.prim_func(s_tir=True)
def _fused(source: T.Buffer(("m", "n"), "int32"), result: T.Buffer(("m", "n"), "int32")):  # pyright: ignore
    m, n = T.int32(), T.int32()  # pyright: ignore
    T.func_attr({"global_symbol": "main"})
    for i_j in range(m * ((n + 3) // 4)):
        with T.sblock("tile"):
            vi = T.axis.spatial(m, i_j // ((n + 3) // 4))
            vj = T.axis.spatial((n + 3) // 4, i_j % ((n + 3) // 4))
            T.reads(source[vi, 0:n])
            T.writes(result[vi, 0:n])
            begin: T.let[T.int32] = T.min(vj * 4, n)
            end: T.let[T.int32] = T.Select(vi < vj, begin, T.min(vj * 4 + 4, n))
            for j in range(end - begin):
                result[vi, begin + j] = source[vi, begin + j] + end


FUSED = tvm.IRModule({"main": _fused})


def _bound(module: Any) -> list[tuple[str, Any]]:
    """Names of the variables of a kernel, and what they are bound to."""
    bound: list[tuple[str, Any]] = []

    def note(stmt: Any) -> None:
        bound.append((stmt.var.name, stmt.value))

    tvm_ffi.structural_walk(module["main"].body, (tirx.Bind, note))
    return bound


def _scopes(module: Any) -> set[str]:
    """Where the sblocks of a kernel have memory."""
    found: set[str] = set()

    def note(block: Any) -> None:
        found.update(buffer.scope() for buffer in block.alloc_buffers)

    tvm_ffi.structural_walk(module["main"].body, (s_tir.SBlock, note))
    return found


def test_choices_and_divisions_by_sizes_are_loaded_and_mean_the_same() -> None:
    known = pipeline(FUSED)
    loaded = {name: isinstance(value, TensorLoad) for name, value in _bound(known)}
    assert loaded == {"vi": True, "vj": True, "begin": False, "end": True}
    source = np.arange(3 * 10, dtype="int32").reshape(3, 10)
    results = []
    target = tvm.target.Target("llvm")
    for module in (FUSED, known):
        result = tvm.runtime.tensor(source * 0)
        tvm.compile(module, target)["main"](tvm.runtime.tensor(source), result)
        results.append(result.numpy())
    assert results[0].any()
    assert (results[0] == results[1]).all()


def test_nothing_is_loaded_of_sizes_that_are_numbers() -> None:
    function = _fused.specialize({_fused.params[0]: tirx.decl_buffer((3, 10), "int32", "source")})
    assert {int(each) for each in function.params[-1].shape} == {3, 10}
    module = tvm.IRModule({"main": function})
    assert tvm_ffi.structural_equal(pipeline(module), module)


def test_memory_is_what_compilers_of_the_kind_keep_in_registers() -> None:
    assert _scopes(pipeline(FUSED)) == {"global"}  # of a processor: the stack
    schedule = Schedule(FUSED)
    (loop,) = schedule.get_loops(schedule.get_sblock("tile"))
    schedule.bind(loop, "blockIdx.x")
    assert _scopes(pipeline(schedule.mod)) == {"local"}
