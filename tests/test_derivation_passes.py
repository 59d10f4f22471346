"""Each pass of a derivation by itself: what it changes, and what it asks for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from plain_descriptions import SIZES, smoothed
from tvm import tirx
from tvm.ir import Var
from tvm.script import tirx as T

from prefilltune.tuning.derivation import Names, Tiling
from prefilltune.tuning.derivation.axes import find_roles, over, unify
from prefilltune.tuning.derivation.epilogue import finish, stage_outputs
from prefilltune.tuning.derivation.expressions import (
    conjuncts,
    element,
    equal,
    reads,
    same_value,
    substituted,
    with_calls,
    with_loads,
)
from prefilltune.tuning.derivation.extending import extend
from prefilltune.tuning.derivation.inlining import inline
from prefilltune.tuning.derivation.intervals import find_intervals, guard_of, interval, never_falls
from prefilltune.tuning.derivation.nest import Kept
from prefilltune.tuning.derivation.one_pass import one_pass
from prefilltune.tuning.derivation.operands import stage_operands
from prefilltune.tuning.derivation.repair import repair
from prefilltune.tuning.derivation.stages import (
    Axis,
    Description,
    load,
    new_stage,
    read_description,
)
from prefilltune.tuning.derivation.tiling import tiled, tiles_of
from prefilltune.tuning.errors import DerivationError


def named(description: Any, name: str) -> Any:
    (stage,) = (stage for stage in description.stages if stage.name == name)
    return stage


def names_of(stages: Any) -> list[str]:
    return [stage.name for stage in stages]


@pytest.fixture(scope="module")
def description() -> Description:
    return unify(inline(read_description(smoothed())))


# Reading.


def test_stages_in_their_order():
    stages = read_description(smoothed()).stages
    assert names_of(stages) == [
        *("shown", "high_water", "pull", "whole_mass", "shown_table", "heap", "result")
    ]
    heap = stages[-2]
    assert [axis.extent for axis in heap.axes] == [2, 7, 5, 11]
    assert [axis.extent for axis in heap.reduced] == [11]
    assert heap.combine is tirx.Add
    assert isinstance(heap.value, tirx.Mul)
    assert [stage.is_output for stage in stages] == [False] * 6 + [True]


@T.prim_func(s_tir=True)
def _shifted(source: T.Buffer((8,), "float32"), result: T.Buffer((9,), "float32")):  # pyright: ignore
    for i in range(8):
        with T.sblock("shifted"):
            vi = T.axis.spatial(8, i)
            result[vi + 1] = source[vi]


@T.prim_func(s_tir=True)
def _some(source: T.Buffer((8,), "float32"), result: T.Buffer((8,), "float32")):  # pyright: ignore
    for i in range(8):
        with T.sblock("some"):
            vi = T.axis.spatial(8, i)
            T.where(i < 5)
            result[vi] = source[vi]


@T.prim_func(s_tir=True)
def _twice(source: T.Buffer((8,), "float32"), result: T.Buffer((8,), "float32")):  # pyright: ignore
    for i in range(8):
        with T.sblock("twice"):
            vi = T.axis.spatial(8, i)
            result[vi] = source[vi]
            result[vi] = source[vi]


@T.prim_func(s_tir=True)
def _product(source: T.Buffer((8,), "float32"), result: T.Buffer((1,), "float32")):  # pyright: ignore
    for i, j in T.grid(1, 8):
        with T.sblock("product"):
            vi, vj = T.axis.remap("SR", [i, j])
            with T.init():
                result[vi] = T.float32(1)
            result[vi] = result[vi] * source[vj]


@T.prim_func(s_tir=True)
def _hidden(source: T.Buffer((8,), "float32"), result: T.Buffer((8,), "float32")):  # pyright: ignore
    doubled = T.sblock_alloc_buffer((8,), "float32")
    for i in range(8):
        with T.sblock("doubled"):
            vi = T.axis.spatial(8, i)
            if source[vi] > T.float32(0):
                doubled[vi] = source[vi] * T.float32(2)
    for i in range(8):
        with T.sblock("result"):
            vi = T.axis.spatial(8, i)
            result[vi] = doubled[vi]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (_hidden, "'doubled' stores only where .*: outputs alone may leave elements out"),
        (_shifted, r"'shifted' writes result.*must be one of its iteration variables"),
        (_some, "'some' runs only where"),
        (_twice, "'twice' holds a SeqStmt"),
        (_product, "'product' stores .*plus a summand"),
    ],
)
def test_another_form_is_refused(function, said):
    with pytest.raises(DerivationError, match=said):
        read_description(function)


def test_outputs_are_stored_for_the_same_interval_of_rows(description):
    roles = find_roles(description)
    *others, result = description.stages
    row: Any = roles.row.var

    def intervals(*conditions):
        outputs = (replace(result, where=each) for each in conditions)
        return find_intervals(Description((*others, *outputs)), roles)

    written = intervals(row < 3).written
    assert (int(written.begin), int(written.end)) == (0, 3)
    with pytest.raises(
        DerivationError, match=r"'result' is stored where .* is no interval of rows"
    ):
        intervals(row % 2 < 1)
    with pytest.raises(DerivationError, match=r"'result' is stored where .*, and 'result' where"):
        intervals(row < 3, row < 4)


# Inlining.


def test_what_one_stage_reads_goes_into_it_and_what_two_read_stays():
    inlined = inline(read_description(smoothed()))
    assert names_of(inlined.stages) == [
        *("shown", "high_water", "pull", "whole_mass", "heap", "result")
    ]
    assert isinstance(named(inlined, "heap").value.b, tirx.Select)


# Axes.


def test_an_axis_has_one_variable_in_all_stages(description):
    rows, columns = (
        {axis.var for stage in description.stages for axis in stage.axes if axis.extent == extent}
        for extent in SIZES[1:3]
    )
    assert len(rows) == len(columns) == 1


def test_the_anchor_is_the_first_reduction_that_another_reads(description):
    roles = find_roles(description)
    assert roles.anchor.name == "high_water"
    assert (roles.row.extent, roles.column.extent) == SIZES[1:3]
    assert names_of(over(description, roles.column)) == ["high_water", "whole_mass", "heap"]


def test_without_an_anchor_there_is_nothing_to_derive():
    alone = Description(read_description(smoothed()).stages[:2])
    with pytest.raises(DerivationError, match="nothing to carry"):
        find_roles(unify(alone))


def test_stages_are_read_at_iteration_variables():
    stages = list(read_description(smoothed()).stages)
    heap = stages[-2]
    column = heap.axes[-1].var
    stages[-2] = replace(heap, value=substituted(heap.value, {column: column // 2}))
    with pytest.raises(DerivationError, match=r"'heap' reads 'pull' at .* // 2"):
        unify(Description(tuple(stages)))


# Repairs.

_RUNNING = {
    "exp2(s - r)": (lambda s, r: tirx.exp2(s - r), lambda old, new: tirx.exp2(old - new)),
    "exp(r + s)": (lambda s, r: tirx.exp(r + s), lambda old, new: tirx.exp(new - old)),
    "exp(s + r - 1)": (
        lambda s, r: tirx.exp(s + r - tirx.const(1, "float32")),
        lambda old, new: tirx.exp(new - old),
    ),
    "s * exp(s - r)": (lambda s, r: s * tirx.exp(s - r), lambda old, new: tirx.exp(old - new)),
    "exp(s - r) * exp(s - r)": (
        lambda s, r: tirx.exp(s - r) * tirx.exp(s - r),
        lambda old, new: tirx.exp(old - new) * tirx.exp(old - new),
    ),
    "float16(exp(s - r))": (
        lambda s, r: tirx.Cast("float32", tirx.Cast("float16", tirx.exp(s - r))),
        lambda old, new: tirx.exp(old - new),
    ),
}


@pytest.mark.parametrize("form", _RUNNING)
def test_a_sum_is_put_right_by_a_ratio(form):
    summand, expected = _RUNNING[form]
    found = unify(read_description(smoothed(summand)))
    before, now = Var("before", "float32"), Var("now", "float32")
    anchor = find_roles(found).anchor
    assert equal(
        repair(found, anchor, named(found, "whole_mass"), before, now), expected(before, now)
    )


@pytest.mark.parametrize(
    "summand",
    [
        lambda s, r: s - r,
        lambda s, r: tirx.exp(s * r),
        lambda s, r: tirx.exp(s - r) + r,
        lambda s, r: tirx.tanh(s - r),
    ],
)
def test_a_summand_without_a_ratio_is_refused(summand):
    found = unify(read_description(smoothed(summand)))
    value = Var("value", "float32")
    with pytest.raises(DerivationError, match="'whole_mass' reads the running value"):
        repair(found, find_roles(found).anchor, named(found, "whole_mass"), value, value)


def test_only_sums_are_put_right(description):
    value, largest = Var("value", "float32"), replace(named(description, "heap"), combine=tirx.Max)
    with pytest.raises(DerivationError, match=r"'heap' .* is no sum"):
        repair(description, find_roles(description).anchor, largest, value, value)


# Intervals.


def test_which_expressions_never_fall():
    row, other = Var("row", "int32"), Var("other", "int32")
    for rising in (row, other, row + 3, tirx.max(tirx.min(row - other, 7), 0)):
        assert never_falls(rising, row)
    for unknown in (7 - row, row * other, tirx.min(other - row, 7)):
        assert not never_falls(unknown, row)


def test_an_interval_is_compared_with_its_ends():
    column, low = Var("column", "int32"), Var("low", "int32")
    axis = Axis(column, 9)
    found = interval(tirx.all(column >= low, column < 7), axis)
    assert found is not None
    assert equal(found.begin, low)
    assert same_value(found.end, 7)
    assert interval(tirx.all(column >= low, low < 3), axis) is None
    assert interval(column != 3, axis) is None


def test_a_tile_of_rows_sees_from_its_first_row_to_its_last():
    def ends(row, count):
        return [tirx.max(tirx.min(tirx.min(row + at, count), 11), 0) for at in (-1, 2)]

    def sees(row, column, count):
        begin, end = ends(row, count)
        return tirx.all(column >= begin, column < end)

    found = unify(inline(read_description(smoothed(kept=sees, some=ends))))
    columns = find_intervals(found, find_roles(found)).columns_of(tirx.const(4, "int32"), 2)
    for count, visited in ((11, (3, 7)), (4, (3, 4)), (0, (0, 0))):
        assert same_value(_at(columns.begin, count), visited[0])
        assert same_value(_at(columns.end, count), visited[1])


def _at(expr, count):
    return with_loads(expr, lambda _: tirx.const(count, "int32"))


# Operands.


def test_products_read_operands(description):
    roles = find_roles(description)
    intervals = find_intervals(description, roles)
    staged = stage_operands(description, roles, intervals, "float16", Names())
    assert names_of(staged.stages) == [
        *("shown", "high_water", "pull", "whole_mass", "pull_operand", "table_rows"),
        *("heap", "result"),
    ]
    operand = named(staged, "table_rows")
    assert [axis.extent for axis in operand.axes] == [2, 11, 5]
    assert not isinstance(operand.value.value, tirx.Select)
    heap = named(staged, "heap").value
    assert [each.ty.dtype for each in (heap.a, heap.b)] == ["float32", "float32"]
    assert [each.value.ty.dtype for each in (heap.a, heap.b)] == ["float16", "float16"]


# Extending.


@pytest.fixture(scope="module")
def staged(description):
    roles = find_roles(description)
    intervals = find_intervals(description, roles)
    return stage_operands(description, roles, intervals, "float32", Names())


def test_axes_of_products_become_a_multiple_but_for_outputs(staged):
    extended = extend(staged, find_roles(staged), 4)
    extents = {stage.name: [axis.extent for axis in stage.axes] for stage in extended.stages}
    assert extents["table_rows"] == [2, 11, 8]
    assert extents["heap"] == [2, 7, 8, 11]
    assert extents["pull_operand"] == [2, 7, 11]  # neither rows nor columns
    assert extents["result"] == [2, 7, 5]
    (operand,) = (stage for stage in extended.stages if stage.within is not None)
    assert operand.name == "table_rows"
    assert equal(operand.within, operand.axes[-1].var < 5)


def test_what_is_a_multiple_stays_as_it_is(staged):
    for stage, same in zip(
        staged.stages, extend(staged, find_roles(staged), 5).stages, strict=True
    ):
        assert stage is same


def test_zeros_are_for_products_alone(staged):
    """The smallest of a row's elements, say, would be 0 where all are above."""
    heap = named(staged, "heap")
    smallest = replace(heap, name="smallest", combine=tirx.Min, value=heap.value.a)
    with pytest.raises(
        DerivationError, match=r"'smallest' is over .*, which is extended with zeros"
    ):
        extend(Description((*staged.stages, smallest)), find_roles(staged), 4)


def test_outputs_are_staged_as_tiles_are_and_stored_as_they_are(description, staged):
    """What a staged output reads of a parameter itself is not read beyond it either."""
    roles, (table, *_) = find_roles(description), smoothed().params[1:]
    passes = one_pass(extend(staged, roles, 4), roles, tiles_of(roles.column, 3), None, Names())
    (output,) = passes.after
    group, _, element_of = output.indices
    more = output.value + element(table, [group, tirx.const(0, "int32"), element_of])
    for value, guarded in ((output.value, False), (more, True)):
        given = replace(passes, after=(replace(output, value=value),))
        computed, stored = stage_outputs(given, lambda _: True, Names()).after
        assert [axis.extent for axis in computed.axes] == [2, 7, 8]
        assert [axis.extent for axis in stored.axes] == [2, 7, 5]
        assert (computed.within is not None) == guarded
        assert not guarded or equal(computed.within, element_of < 5)


# One pass, its end, and its tiles.


@pytest.fixture(scope="module")
def nest(description, staged):
    roles = find_roles(description)
    intervals = find_intervals(description, roles)
    passes = one_pass(staged, roles, tiles_of(roles.column, 3), None, Names())
    done = finish(passes, (*roles.outer, roles.row), guard_of(staged), Names())
    return passes, done, tiled(done, roles, intervals, Tiling(4, 3), Names())


def test_each_stage_has_its_place_in_the_pass(nest):
    passes, _, _ = nest
    assert names_of(passes.first) == ["shown", "tile_water"]
    assert names_of(passes.moving) == ["water_before", "high_water", "rescale"]
    assert names_of(passes.second) == [
        *("pull", "tile_mass", "whole_mass", "pull_operand", "table_rows", "tile_heap", "heap")
    ]
    assert names_of(passes.closing) == ["whole_mass"]


def test_all_sums_are_put_right_by_one_rescale(nest):
    passes, _, _ = nest
    rescale = named(passes, "rescale")
    readers = [stage.name for stage in passes.stages if reads(stage.value, rescale.buffer)]
    assert readers == ["whole_mass", "heap"]


def test_a_row_is_divided_once(nest):
    _, done, _ = nest
    assert names_of(done.after) == ["final_mass", "inv_mass", "result"]
    result = named(done, "result").value
    assert isinstance(result, tirx.Mul)
    assert equal(result.b, load(named(done, "inv_mass")))
    assert isinstance(named(done, "final_mass").value, tirx.Select)


def test_buffers_are_kept_for_what_reads_them(nest):
    _, _, tree = nest
    kept = {step.name: step.kept for step in tree.steps}
    assert kept["shown"] is Kept.SHARED
    assert kept["tile_water"] is kept["tile_mass"] is Kept.REDUCED
    assert kept["pull"] is kept["table_rows"] is kept["tile_heap"] is Kept.WITHIN
    assert kept["heap"] is Kept.CARRIED
    assert kept["rescale"] is kept["high_water"] is kept["final_mass"] is Kept.ROW
    assert kept["inv_mass"] is Kept.RECIPROCAL
    assert kept["result"] is None


def test_products_that_read_the_same_are_refused(description):
    """Their copies would be one name for two sblocks, and schedules go by names."""
    roles = find_roles(description)
    heap = named(description, "heap")
    twin = new_stage("twin", heap.axes, heap.value)
    stages = [*description.stages[:-1], replace(heap, name="twin", buffer=twin.buffer)]
    found = Description((*stages, description.stages[-1]))
    with pytest.raises(DerivationError, match="two sblocks would be called 'pull_operand'"):
        stage_operands(found, roles, find_intervals(found, roles), "float16", Names())


def test_a_reduction_reads_no_running_value_but_the_anchor(description):
    """The sum of a softmax, say, is not known before the last tile of columns."""
    roles = find_roles(description)
    mass, heap = (named(description, name) for name in ("whole_mass", "heap"))
    early = replace(heap, value=heap.value / load(mass))
    stages = [early if stage is heap else stage for stage in description.stages]
    with pytest.raises(DerivationError, match="'heap' reads 'whole_mass', which is not whole"):
        one_pass(Description(tuple(stages)), roles, tiles_of(roles.column, 3), None, Names())


def test_a_stage_without_a_place_is_refused(description):
    roles = find_roles(description)
    tile = tiles_of(roles.column, 3)
    mass = named(description, "whole_mass")
    first = [mass, *(stage for stage in description.stages if stage is not mass)]
    with pytest.raises(DerivationError, match="'whole_mass' stands before 'high_water'"):
        one_pass(Description(tuple(first)), roles, tile, None, Names())
    inverse = new_stage("inverse", (*roles.outer, roles.row), load(mass))
    with pytest.raises(DerivationError, match="'inverse' reads no column"):
        one_pass(Description((*description.stages, inverse)), roles, tile, None, Names())


# Expressions.


def test_calls_are_replaced_by_name():
    x = Var("x", "float32")
    doubled = with_calls(tirx.exp2(tirx.log2(x)), {"exp2": lambda value: value + value})
    assert equal(doubled, tirx.log2(x) + tirx.log2(x))


def test_conjuncts_are_what_must_hold():
    x = Var("x", "int32")
    assert [str(each) for each in conjuncts(tirx.all(x < 1, x > 2, x == 3))] == [
        *("x < 1", "x > 2", "x == 3")
    ]
