"""The pipeline pass: the same results, the loads a tile ahead, and clear refusals."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm.s_tir import Schedule
from tvm.script import tirx as T

from prefilltune.tuning.pipeline import BULK, LOADS, LOADS_AFTER, OVERLAP, pipeline


@T.prim_func(s_tir=True)
def _sum_of_squares(source: T.Buffer((5, 4), "int32"), result: T.Buffer((4,), "int32")):  # pyright: ignore
    T.func_attr({"global_symbol": "main", "tirx.noalias": True})
    with T.sblock("root"):
        tile = T.sblock_alloc_buffer((2, 4), "int32")
        square = T.sblock_alloc_buffer((4,), "int32")
        for t in range(5):
            for i in range(4):
                with T.sblock("load"):
                    vt, vi = T.axis.remap("SS", [t, i])
                    tile[vt % 2, vi] = source[vt, vi]
            for i in range(4):
                with T.sblock("square"):
                    vt, vi = T.axis.remap("SS", [t, i])
                    square[vi] = tile[vt % 2, vi] * tile[vt % 2, vi]
            for i in range(4):
                with T.sblock("sum"):
                    vt, vi = T.axis.remap("RS", [t, i])
                    with T.init():
                        result[vi] = 0
                    result[vi] = result[vi] + square[vi]


def _annotated(loads: int, after: int, *more: str) -> tvm.IRModule:
    schedule = Schedule(tvm.IRModule({"main": _sum_of_squares}))
    loop = schedule.get_loops(schedule.get_sblock("load"))[0]
    schedule.annotate(loop, LOADS, loads)
    schedule.annotate(loop, LOADS_AFTER, after)
    for each in more:
        schedule.annotate(loop, each, 1)
    return schedule.mod


@pytest.mark.parametrize("after", [1, 2])
def test_results_stay_and_loads_come_a_tile_early(after: int) -> None:
    module = pipeline(_annotated(1, after))
    assert LOADS not in module.script()
    assert module.script().count('T.sblock("load")') == 2  # before the loop and in it
    source = np.arange(20, dtype="int32").reshape(5, 4)
    result = tvm.runtime.tensor(np.zeros(4, "int32"))
    tvm.compile(module, target="llvm")["main"](tvm.runtime.tensor(source), result)
    np.testing.assert_array_equal(result.numpy(), (source * source).sum(0))


def test_a_module_without_annotations_stays_itself() -> None:
    module = tvm.IRModule({"main": _sum_of_squares})
    assert tvm_ffi.structural_equal(pipeline(module), module)


@pytest.mark.parametrize(("loads", "after"), [(0, 1), (3, 1), (1, 0), (1, 3)])
def test_annotations_that_do_not_fit_are_refused(loads: int, after: int) -> None:
    with pytest.raises(ValueError, match="a loop of 3 steps says that"):
        pipeline(_annotated(loads, after))


@pytest.mark.parametrize("annotation", [OVERLAP, BULK])
def test_a_loop_without_the_steps_of_attention_is_refused(annotation: str) -> None:
    with pytest.raises(ValueError, match="needs two"):
        pipeline(_annotated(1, 1, annotation))
