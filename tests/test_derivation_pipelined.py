"""Steps side by side: the passes that pipelines ask for, on a description that is no attention."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tvm
from plain_descriptions import SIZES, compiled, smoothed
from tvm import tirx
from tvm.ir import Var

from prefilltune.tuning.derivation import Names, Tiling, derive_pipelined
from prefilltune.tuning.derivation.axes import find_roles, unify
from prefilltune.tuning.derivation.derive import Pipelining
from prefilltune.tuning.derivation.expressions import equal, reads, same_value, with_loads
from prefilltune.tuning.derivation.fusing import fuse
from prefilltune.tuning.derivation.inlining import inline
from prefilltune.tuning.derivation.intervals import find_intervals
from prefilltune.tuning.derivation.lanes import spread
from prefilltune.tuning.derivation.nest import Kept, Nest, Step
from prefilltune.tuning.derivation.one_pass import OnePass, one_pass
from prefilltune.tuning.derivation.operands import stage_operands
from prefilltune.tuning.derivation.rings import in_rings
from prefilltune.tuning.derivation.scaling import scale_late
from prefilltune.tuning.derivation.sequence import side_by_side
from prefilltune.tuning.derivation.slack import Slack, let_lag
from prefilltune.tuning.derivation.stages import load, read_description
from prefilltune.tuning.derivation.tiling import tiles_of
from prefilltune.tuning.errors import DerivationError
from prefilltune.workloads import max_error

GROUPS, ROWS, COLUMNS, ELEMENTS = SIZES
SLACK = Slack(lag=4.0, largest=1e6)


def pipelined(function: Any, columns: int = 8, ring: int = 2, staged: bool = False) -> Any:
    return derive_pipelined(
        function, Tiling(4, columns), Pipelining(ring, staged, SLACK), {}, Names()
    )


def passes_of(function: Any) -> tuple[OnePass, Any, Any]:
    """One pass over ``function``, what it is about, and its mask."""
    description = unify(inline(read_description(function)))
    roles = find_roles(description)
    intervals = find_intervals(description, roles)
    description = stage_operands(description, roles, intervals, "float32", Names())
    tile = tiles_of(roles.column, 8)
    return one_pass(description, roles, tile, None, Names()), roles, intervals


def named(items: Any, name: str) -> Any:
    (found,) = (each for each in items if each.name == name)
    return found


def _window(row: Any, count: Any) -> tuple[Any, Any]:
    begin, end = (tirx.max(tirx.min(tirx.min(row + at, count), COLUMNS), 0) for at in (-1, 2))
    return begin, end


def _in_window(row: Any, column: Any, count: Any) -> Any:
    begin, end = _window(row, count)
    return tirx.all(column >= begin, column < end)


WINDOW = {"kept": _in_window, "some": _window}


def _expected(energy: np.ndarray, table: np.ndarray, counts: Any, window: bool) -> np.ndarray:
    expected = np.zeros((GROUPS, ROWS, ELEMENTS))
    for group, count in enumerate(np.clip(counts, 0, COLUMNS)):
        for row in range(ROWS):
            begin, end = (max(row - 1, 0), min(row + 2, count)) if window else (0, count)
            if begin < end:
                weights = np.exp(energy[group, row, begin:end].astype("float64"))
                expected[group, row] = weights @ table[group, begin:end] / weights.sum()
    return expected


@pytest.mark.parametrize(
    ("columns", "ring", "staged", "window"),
    [(8, 1, False, False), (8, 2, True, True), (16, 3, False, True), (8, 3, True, False)],
)
def test_steps_side_by_side_compute_the_same(columns, ring, staged, window):
    """Energies far apart, so that the anchor moves in some tiles and lags behind in others."""
    random = np.random.default_rng(0)
    energy = random.normal(0, 5, (GROUPS, ROWS, COLUMNS)).astype("float32")
    table = random.normal(size=(GROUPS, COLUMNS, ELEMENTS)).astype("float32")
    function = smoothed(**WINDOW) if window else smoothed()
    derived = compiled(pipelined(function, columns, ring, staged))
    for counts in ([0, 8], [11, 1], [-3, 40]):
        given = [energy.copy(), table.copy(), np.array(counts, "int32")]
        for group, count in enumerate(counts):
            given[0][group, :, max(count, 0) :] = given[1][group, max(count, 0) :] = np.nan
        result = _run(derived, given)
        assert max_error(result, _expected(energy, table, counts, window)) <= 1e-5


def _run(library: Any, given: list[np.ndarray]) -> np.ndarray:
    nan = np.full((GROUPS, ROWS, ELEMENTS), np.nan, "float32")
    tensors = [tvm.runtime.tensor(array) for array in (*given, nan)]
    library(*tensors)
    return tensors[-1].numpy()


def test_steps_in_their_order():
    found = re.findall(r'with T\.sblock\("(\w+)"\)', pipelined(smoothed(), staged=True).script())
    assert found[1:] == [
        *("row_tile", "table_rows", "shown", "tile_water", "water_before", "high_water", "rescale"),
        *("pull", "tile_mass", "whole_mass", "pull_operand", "heap"),
        *("whole_mass_of_lanes", "final_mass", "inv_mass", "row_result", "result"),
    ]


# A scale behind the maximum.


def _times(factor: float) -> Any:
    return smoothed(scale=lambda energy: energy * tirx.const(factor, "float32"))


def test_a_positive_factor_goes_behind_the_maximum():
    passes, *_ = passes_of(_times(0.5))
    late = scale_late(passes)
    half = tirx.const(0.5, "float32")
    shown, largest = named(late.first, "shown"), named(late.first, "tile_water")
    assert not isinstance(shown.value.true_value, tirx.Mul)
    assert equal(largest.value, load(shown))
    assert equal(named(late.moving, "high_water").value.b, load(largest) * half)
    assert equal(named(late.second, "pull").value.args[0].a, load(shown) * half)


@pytest.mark.parametrize(
    "scale",
    [
        lambda energy: energy * tirx.const(-0.5, "float32"),
        lambda energy: energy * tirx.const(0.5, "float32") + tirx.const(1, "float32"),
        lambda energy: energy * energy,
    ],
)
def test_what_is_no_positive_factor_stays(scale):
    passes, *_ = passes_of(smoothed(scale=scale))
    late = scale_late(passes)
    for before, after in zip(passes.stages, late.stages, strict=True):
        assert equal(before.value, after.value)


def test_a_factor_is_right_on_either_side_of_the_maximum():
    random = np.random.default_rng(1)
    energy = random.normal(0, 5, (GROUPS, ROWS, COLUMNS)).astype("float32")
    table = random.normal(size=(GROUPS, COLUMNS, ELEMENTS)).astype("float32")
    for factor in (2.0, -2.0):
        given = [energy, table, np.array([11, 6], "int32")]
        result = _run(compiled(pipelined(_times(factor))), given)
        expected = _expected(factor * energy, table, [11, 6], window=False)
        assert max_error(result, expected) <= 1e-5


# An anchor that lags behind.


def test_the_anchor_moves_where_a_tile_exceeds_it_by_more_than_its_lag():
    passes, roles, _ = passes_of(smoothed())
    value = named(let_lag(passes, roles, SLACK).moving, "high_water").value
    assert isinstance(value, tirx.Select)
    anchor = load(roles.anchor)
    assert equal(value.condition, value.true_value > anchor + tirx.const(4, "float32"))
    assert equal(value.false_value, anchor)


def test_an_anchor_that_is_no_maximum_does_not_lag():
    passes, roles, _ = passes_of(smoothed())
    least = tuple(
        replace(s, value=tirx.Min(s.value.a, s.value.b)) if s.name == "high_water" else s
        for s in passes.moving
    )
    with pytest.raises(DerivationError, match="'high_water' is no maximum"):
        let_lag(replace(passes, moving=least), roles, SLACK)


def test_an_anchor_starts_out_of_the_range_of_rows_that_are_defined():
    """It stays there where all that a row sees is -inf: of that there is no mean."""
    passes, roles, _ = passes_of(smoothed())
    with pytest.raises(DerivationError, match=r"'high_water' starts with .*above 1e\+31"):
        let_lag(passes, roles, Slack(4.0, 1e31))


@pytest.mark.parametrize("energy", [2e6, -2e6, np.inf, -np.inf, np.nan])
def test_rows_out_of_range_are_nan(energy):
    given = [np.full((GROUPS, ROWS, COLUMNS), energy, "float32")]
    given += [np.ones((GROUPS, COLUMNS, ELEMENTS), "float32"), np.array([9, 0], "int32")]
    result = _run(compiled(pipelined(smoothed())), given)
    assert np.isnan(result[0]).all()
    assert (result[1] == 0).all()


# Lanes.


def test_lanes_sum_up_their_own_columns():
    passes, *_ = passes_of(smoothed())
    by_lane = spread(passes, Names())
    part, total = (named(by_lane.second, name) for name in ("tile_mass", "whole_mass"))
    whole = named(by_lane.after, "whole_mass_of_lanes")
    assert [axis.extent for axis in part.axes] == [GROUPS, ROWS, 4, COLUMNS]
    assert [axis.extent for axis in total.axes] == [GROUPS, ROWS, 4]
    assert [axis.extent for axis in whole.reduced] == [4]
    assert by_lane.after[0] is whole
    assert all(not reads(stage.value, total.buffer) for stage in by_lane.after[1:])


def test_a_factor_of_a_row_is_there_for_each_column_of_a_fragment():
    passes, *_ = passes_of(smoothed())
    by_lane = spread(passes, Names())
    rescale = named(by_lane.moving, "rescale")
    assert [axis.extent for axis in rescale.axes] == [GROUPS, ROWS, 8]
    heap = named(by_lane.second, "heap")
    factor = heap.value.a.b
    assert factor.source.same_as(rescale.buffer)
    assert equal(factor.indices[-1], heap.indices[-1] % 8)


def test_only_sums_that_start_at_0_have_lanes():
    passes, *_ = passes_of(smoothed())
    one = tirx.const(1, "float32")
    second = tuple(replace(s, init=one) if s.name == "whole_mass" else s for s in passes.second)
    with pytest.raises(DerivationError, match=r"'whole_mass' stores .*a sum that starts at 0"):
        spread(replace(passes, second=second), Names())


def test_a_tile_is_a_number_of_fragments():
    with pytest.raises(DerivationError, match="a tile of 12 columns is not a number of fragments"):
        pipelined(smoothed(), columns=12)


# The nest, its rings, and sums in place.


def nest_of(function: Any) -> Nest:
    passes, roles, intervals = passes_of(function)
    return side_by_side(spread(passes, Names()), roles, intervals, Tiling(4, 8), Names())


def steps(nest: Nest) -> dict[str, Step]:
    return {step.name: step for step in nest.steps}


@pytest.mark.parametrize("window", [False, True])
def test_a_mask_is_asked_where_not_all_rows_see_a_tile(window):
    shown = steps(nest_of(smoothed(**WINDOW) if window else smoothed()))["shown"]
    assert shown.everywhere is not None
    condition, value = shown.everywhere
    # An index is bounded where a tile may reach beyond the range.
    assert isinstance(shown.value.true_value.indices[-1], tirx.Min)
    assert not isinstance(value.indices[-1], tirx.Min)
    assert isinstance(condition, tirx.And) == window
    # What tiles of columns begin with need not be asked, if all rows share it.
    assert isinstance(shown.value.condition, tirx.And) == window
    assert [axis.extent for axis in shown.unrolled] == [1, 2]


def test_the_longest_rows_are_begun_first():
    def ends(row, count):
        return 0, tirx.max(tirx.min(row + count, COLUMNS), 0)

    def seen(row, column, count):
        return column < ends(row, count)[1]

    assert nest_of(smoothed(kept=seen, some=ends)).last_first
    assert not nest_of(smoothed()).last_first
    assert not nest_of(smoothed(**WINDOW)).last_first


def test_what_all_rows_of_a_tile_see():
    _, _, intervals = passes_of(smoothed(**WINDOW))
    assert intervals.begin_moves
    assert intervals.end_moves
    seen = intervals.seen_by_all(tirx.const(4, "int32"), 2)
    for count, (begin, end) in {11: (4, 6), 5: (4, 5)}.items():
        for expr, expected in ((seen.begin, begin), (seen.end, end)):
            at_count = with_loads(expr, lambda _, count=count: tirx.const(count, "int32"))
            assert same_value(at_count, expected)


def test_copies_lie_in_rings():
    nest = nest_of(smoothed())
    assert steps(nest)["table_rows"].kept is Kept.COPIES
    ringed = steps(in_rings(nest, 3))
    copy, reader = ringed["table_rows"], ringed["tile_heap"]
    assert [int(size) for size in copy.buffer.shape] == [3, 8, ELEMENTS]
    assert equal(copy.indices[0], nest.tile.var % 3)
    assert reads(reader.value, copy.buffer)
    assert reader.at is not None
    assert ringed["pull"].at is None


def test_what_is_carried_is_added_to_in_place():
    nest = nest_of(smoothed())
    heap = steps(fuse(nest))["heap"]
    (column,) = heap.reduced
    assert "tile_heap" not in steps(fuse(nest))
    assert heap.tile is not None
    running, summand = heap.value.a, heap.value.b
    first = running.b
    assert equal(first.args[0], tirx.EQ(column, tirx.const(0, "int32")))
    assert reads(first.args[1], steps(nest)["rescale"].buffer)
    assert isinstance(summand, tirx.Mul)
    assert isinstance(column, Var)
