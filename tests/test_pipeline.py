"""The pipeline pass: the same results, the loads a tile ahead, and clear refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.s_tir import Schedule
from tvm.script import tirx as T
from tvm.tirx.exec_scope import ScopeIdDef

from prefilltune.tuning.errors import PipelineError
from prefilltune.tuning.pipeline import (
    BULK,
    BULK_ONCE,
    LOADS,
    LOADS_AFTER,
    MIN_BLOCKS,
    ON_DEMAND,
    OVERLAP,
    PEEL,
    TILES,
    TRIM,
    pipeline,
)
from prefilltune.tuning.pipeline.limits import masked_by_limits
from prefilltune.tuning.pipeline.steps import changed
from prefilltune.tuning.pipeline.unswitching import unswitched


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


@T.prim_func(s_tir=True)
def _masked(a: T.handle, b: T.handle, c: T.handle):
    source = T.match_buffer(a, (3, 8), "float32")
    ends = T.match_buffer(b, (3,), "int32")
    result = T.match_buffer(c, (3, 8), "float32")
    T.func_attr({"global_symbol": "main", "tirx.noalias": True})
    with T.sblock("root"):
        for i in range(3):
            with T.sblock("scores"):
                vi = T.axis.spatial(3, i)
                T.reads(source[vi, 0:8], ends[vi])
                T.writes(result[vi, 0:8])
                for fragment in T.unroll(4):
                    for pair in T.unroll(2):
                        result[vi, fragment * 2 + pair] = T.Select(
                            vi + fragment * 2 + pair >= 2 and vi + fragment * 2 + pair < ends[vi],
                            source[vi, fragment * 2 + pair],
                            T.float32(0),
                        )


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


def test_a_mask_compares_numbers_with_limits() -> None:
    module = tvm.IRModule({"main": _masked.with_body(changed(_masked.body, masked_by_limits))})
    (mask,) = (line for line in module.script().splitlines() if "Select" in line)
    assert mask.count("limit[") == 2
    assert "vi +" not in mask
    source, ends = np.arange(24, dtype="float32").reshape(3, 8), np.array([5, 0, 99], "int32")
    result = tvm.runtime.tensor(np.zeros((3, 8), "float32"))
    kernel = tvm.compile(module, target="llvm")["main"]
    kernel(tvm.runtime.tensor(source), tvm.runtime.tensor(ends), result)
    columns = np.arange(8) + np.arange(3)[:, None]
    kept = (columns >= 2) & (columns < ends[:, None])
    np.testing.assert_array_equal(result.numpy(), np.where(kept, source, 0))


def test_a_module_without_annotations_stays_itself() -> None:
    module = tvm.IRModule({"main": _sum_of_squares})
    assert tvm_ffi.structural_equal(pipeline(module), module)


@pytest.mark.parametrize(("loads", "after"), [(0, 1), (3, 1), (1, 0), (1, 3)])
def test_annotations_that_do_not_fit_are_refused(loads: int, after: int) -> None:
    with pytest.raises(PipelineError, match="a loop of 3 steps says that"):
        pipeline(_annotated(loads, after))


@pytest.mark.parametrize("annotations", [(BULK,), (BULK, OVERLAP)])
def test_a_loop_without_the_steps_of_attention_is_refused(annotations: tuple[str, ...]) -> None:
    with pytest.raises(PipelineError, match="needs two"):
        pipeline(_annotated(1, 1, *annotations))


def test_products_do_not_overlap_without_rings() -> None:
    with pytest.raises(PipelineError, match=f"needs rings: annotate it with {BULK} too"):
        pipeline(_annotated(1, 1, OVERLAP))


@T.prim_func(s_tir=True)
def _doubled(source: T.Buffer((12,), "int32"), result: T.Buffer((12,), "int32")):  # pyright: ignore
    T.func_attr({"global_symbol": "main", "tirx.noalias": True})
    for i in range(12):
        with T.sblock("double"):
            vi = T.axis.spatial(12, i)
            result[vi] = source[vi] + source[vi]


@pytest.mark.parametrize(
    ("size", "extents"), [(5, {2}), (4, {3}), (16, set())], ids=["partial", "whole", "one"]
)
def test_a_partial_last_step_is_written_out(size: int, extents: set[int]) -> None:
    schedule = Schedule(tvm.IRModule({"main": _doubled}))
    tile, _ = schedule.split(schedule.get_loops("double")[0], [None, size])
    schedule.annotate(tile, PEEL, 1)
    module = pipeline(schedule.mod)
    assert PEEL not in module.script()
    loops = []

    def visit(part: Any) -> None:
        if isinstance(part, tirx.For) and part.loop_var.name == "i_0":
            loops.append(int(part.extent))

    changed(module["main"].body, visit)
    assert set(loops) - {1} == extents
    assert (1 in loops) == (12 % size != 0)
    source = np.arange(12, dtype="int32")
    result = tvm.runtime.tensor(np.zeros(12, "int32"))
    tvm.compile(module, target="llvm")["main"](tvm.runtime.tensor(source), result)
    np.testing.assert_array_equal(result.numpy(), 2 * source)


@T.prim_func(s_tir=True)
def _chosen(  # what is chosen by is known, of each element, and read
    numbers: T.Buffer((1,), "int32"),  # pyright: ignore
    source: T.Buffer((8,), "int32"),  # pyright: ignore
    result: T.Buffer((3, 8), "int32"),  # pyright: ignore
):
    T.func_attr({"global_symbol": "main", "tirx.noalias": True})
    count: T.let[T.int32] = numbers[0]
    for i in range(8):
        with T.sblock("known"):
            vi = T.axis.spatial(8, i)
            result[0, vi] = T.if_then_else(count > 0, source[vi] + 1, -1)
    for i in range(8):
        with T.sblock("element"):
            vi = T.axis.spatial(8, i)
            result[1, vi] = T.if_then_else(vi < count, source[vi] + 1, -1)
    for i in range(8):
        with T.sblock("read"):
            vi = T.axis.spatial(8, i)
            result[2, vi] = T.if_then_else(numbers[0] > 0, source[vi] + 1, -1)


def test_what_is_known_of_all_elements_is_asked_once() -> None:
    function: Any = _chosen
    function = function.with_body(changed(function.body, unswitched))
    stores: list[Any] = []

    def visit(part: Any) -> None:
        if isinstance(part, tirx.IfThenElse):
            stores.append(part)

    changed(function.body, visit)
    assert len(stores) == 1
    assert function.script().count("if_then_else") == 2
    kernel = tvm.compile(tvm.IRModule({"main": function}), target="llvm")["main"]
    source = np.arange(8, dtype="int32")
    for count in (0, 3):
        result = tvm.runtime.tensor(np.zeros((3, 8), "int32"))
        numbers = tvm.runtime.tensor(np.array([count], "int32"))
        kernel(numbers, tvm.runtime.tensor(source), result)
        whole = np.where(count > 0, source + 1, -1)
        each = np.where(source < count, source + 1, -1)
        np.testing.assert_array_equal(result.numpy(), [whole, each, whole])


@T.prim_func(s_tir=True)
def _visits(columns: T.Buffer((1,), "int32"), result: T.Buffer((3, 8), "int32")):  # pyright: ignore
    T.func_attr({"global_symbol": "main", "tirx.noalias": True})
    count: T.let[T.int32] = columns[0]
    for t in range((count + 7) // 8):
        for i in range(8):
            with T.sblock("visit"):
                vt, vi = T.axis.remap("SS", [t, i])
                result[vt, vi] = 1


@pytest.mark.parametrize("multiple", [1, 4])
@pytest.mark.parametrize("taken", [1, 3, 8])
def test_loops_end_with_the_columns(taken: int, multiple: int) -> None:
    schedule = Schedule(tvm.IRModule({"main": _visits}))
    tiles, column = schedule.get_loops("visit")
    steps, _ = schedule.split(column, [None, taken])
    schedule.annotate(tiles, TILES, multiple)
    schedule.annotate(steps, TRIM, taken)
    schedule.annotate(steps, PEEL, 1)
    kernel = tvm.compile(pipeline(schedule.mod), target="llvm")["main"]
    for columns in range(25):
        result = tvm.runtime.tensor(np.zeros((3, 8), "int32"))
        kernel(tvm.runtime.tensor(np.array([columns], "int32")), result)
        whole, left = divmod(columns, 8)
        asked = -(-left // multiple) * multiple
        visited = whole * 8 + min(-(-asked // taken) * taken, 8)
        np.testing.assert_array_equal(result.numpy().ravel(), np.arange(24) < visited)


def test_columns_that_no_loop_tells_are_refused() -> None:
    schedule = Schedule(tvm.IRModule({"main": _doubled}))
    schedule.annotate(schedule.get_loops("double")[0], TILES, 4)
    with pytest.raises(PipelineError, match="of which columns can be told"):
        pipeline(schedule.mod)


_TRUE = tirx.const(True, "bool")
_OTHER = tirx.Evaluate(tirx.const(3, "int32"))


def _sblock(body: Any, init: Any = None) -> Any:
    return s_tir.SBlockRealize([], True, s_tir.SBlock([], [], [], "within", body, init))


#: Every kind of statement that has others within, around a given one.
AROUND: dict[str, Callable[[Any], Any]] = {
    "AttrStmt": lambda stmt: tirx.AttrStmt(0, "pragma_some", 1, stmt),
    "For": lambda stmt: tirx.For(
        tirx.Var("i", "int32"), tirx.const(0), tirx.const(2), tirx.ForKind.SERIAL, stmt
    ),
    "IfThenElse": lambda stmt: tirx.IfThenElse(_TRUE, stmt, None),
    "IfThenElse, else": lambda stmt: tirx.IfThenElse(_TRUE, _OTHER, stmt),
    "SBlock": _sblock,
    "SBlock, init": lambda stmt: _sblock(_OTHER, stmt),
    "SeqStmt": lambda stmt: tirx.SeqStmt([_OTHER, stmt]),
    "While": lambda stmt: tirx.While(_TRUE, stmt),
}


@pytest.mark.parametrize("kind", AROUND)
def test_what_lies_within_a_statement_is_changed(kind: str) -> None:
    before, after = (tirx.Evaluate(tirx.const(value, "int32")) for value in (1, 2))

    def change(stmt: Any) -> Any:
        return after if tvm_ffi.structural_equal(stmt, before) else None

    around = AROUND[kind]
    found = changed(around(around(before)), change)
    assert tvm_ffi.structural_equal(found, around(around(after)), map_free_vars=True)


@pytest.mark.parametrize("kind", AROUND)
def test_a_loop_within_a_statement_is_pipelined(kind: str) -> None:
    module = _annotated(1, 1)
    within = tvm.IRModule({"main": module["main"].with_body(AROUND[kind](module["main"].body))})
    assert LOADS not in pipeline(within).script()


def test_a_statement_of_an_unknown_kind_is_refused_by_name() -> None:
    unknown = tirx.stmt.ScopeIdDefStmt(ScopeIdDef([tirx.Var("warp", "int32")], [4], "cta", "warp"))
    body = tirx.SeqStmt([unknown, _sum_of_squares.body])
    with pytest.raises(PipelineError, match="does not know the statement ScopeIdDefStmt"):
        pipeline(tvm.IRModule({"main": _sum_of_squares.with_body(body)}))


@pytest.mark.parametrize("annotation", [BULK_ONCE, MIN_BLOCKS])
def test_an_annotation_that_nothing_comes_of_is_refused(annotation: str) -> None:
    """Within a pipelined loop, and where none is; it was dropped, or stayed, without a word."""
    for pipelined in (True, False):
        schedule = Schedule(_annotated(1, 1) if pipelined else _sum_of_squares)
        schedule.annotate(schedule.get_loops(schedule.get_sblock("square"))[-1], annotation, 1)
        with pytest.raises(PipelineError, match=f"the loop over i says {annotation}"):
            pipeline(schedule.mod)


def test_a_load_for_all_tiles_beside_a_loop_without_rings_is_refused() -> None:
    module = _annotated(1, 1)
    body = module["main"].body
    loop = body.block.body
    load = tirx.For(
        tirx.Var("i", "int32"), tirx.const(0), tirx.const(4), tirx.ForKind.SERIAL, _OTHER,
        annotations={BULK_ONCE: 1},
    )  # fmt: skip
    beside = module["main"].with_body(tirx.SeqStmt([load, loop]))
    with pytest.raises(PipelineError, match=f"the loop over i says {BULK_ONCE}"):
        pipeline(tvm.IRModule({"main": beside}))


@T.prim_func(s_tir=True)
def _largest_of_lanes(source: T.Buffer((3, 2, 24), "float32"), result: T.Buffer((2,), "float32")):  # pyright: ignore
    T.func_attr({"global_symbol": "main", "tirx.noalias": True})
    with T.sblock("root"):
        tile = T.sblock_alloc_buffer((2, 24), scope="local")
        largest = T.sblock_alloc_buffer((2,), scope="local")
        anchor = T.sblock_alloc_buffer((2,), scope="local")
        for t in T.serial(3, annotations={"prefill.on_demand": 1}):
            for i, j in T.grid(2, 24):
                with T.sblock("tile"):
                    vt, vi, vj = T.axis.remap("SSS", [t, i, j])
                    tile[vi, vj] = source[vt, vi, vj]
            for i in range(2):
                for lane in T.thread_binding(4, thread="threadIdx.x"):
                    for j_0, j_1 in T.grid(2, 3):
                        with T.sblock("largest"):
                            vi = T.axis.spatial(2, i)
                            vj = T.axis.reduce(24, j_0 * 12 + lane * 3 + j_1)
                            with T.init():
                                largest[vi] = T.float32(-3e38)
                            largest[vi] = T.max(largest[vi], tile[vi, vj])
            for i in range(2):
                with T.sblock("anchor"):
                    vi = T.axis.spatial(2, i)
                    anchor[vi] = T.Select(
                        largest[vi] > anchor[vi] + T.float32(8), largest[vi], anchor[vi]
                    )
            for i in range(2):
                with T.sblock("result"):
                    vi = T.axis.spatial(2, i)
                    result[vi] = tile[vi, 0] - anchor[vi]


def _without(function: Any, name: str) -> Any:
    """A function whose loop on demand has no step of a name."""

    def change(part: Any) -> Any:
        if not (isinstance(part, tirx.For) and ON_DEMAND in part.annotations):
            return None
        kept = [each for each in part.body.seq if f'"{name}"' not in each.script()]
        return tirx.For(
            part.loop_var, part.min, part.extent, part.kind, tirx.SeqStmt(kept), None,
            part.annotations,
        )  # fmt: skip

    return function.with_body(changed(function.body, change))


@pytest.mark.parametrize(
    ("absent", "message"),
    [
        ("largest", "0 steps that reduce lanes by a maximum; it needs one"),
        ("anchor", "describe it with a slack"),
        ("nothing", "compares two numbers of a lane at a time, and here 3 lie side by side"),
    ],
)
def test_maxima_on_demand_need_an_anchor_that_lags(absent: str, message: str) -> None:
    function = _without(_largest_of_lanes, absent)
    with pytest.raises(PipelineError, match=message):
        pipeline(tvm.IRModule({"main": function}))
