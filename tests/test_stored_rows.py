"""What holds for all rows of a tile that are stored is not asked of each."""

from __future__ import annotations

from typing import Any

import pytest
from tvm.ir import Var

from prefilltune.tuning.building.describing import describe
from prefilltune.tuning.derivation.axes import find_roles, unify
from prefilltune.tuning.derivation.expressions import conjuncts, depends, equal
from prefilltune.tuning.derivation.inlining import inline
from prefilltune.tuning.derivation.intervals import Intervals, find_intervals
from prefilltune.tuning.derivation.stages import read_description
from prefilltune.workloads import PackedShape, PrefillShape, PrefillSpec, plain_attention
from prefilltune.workloads.shapes import squared

CAUSAL, AROUND = (None, 0), (40, 9)
SHAPE = PrefillShape(3, 300)
SOME = Var("tiles", "int32") > 0

packed = PackedShape.fresh()
untouched = {"padding_output": "untouched"}


def intervals_of(sizes: Any, fields: dict[str, Any]) -> Intervals:
    (function,) = plain_attention(PrefillSpec(4, 2, 64, **fields), sizes).functions.values()
    description = unify(inline(read_description(function)))
    return find_intervals(description, find_roles(description))


@pytest.mark.parametrize("window", [(None, None), CAUSAL, AROUND], ids=str)
@pytest.mark.parametrize(
    ("sizes", "fields", "aligned"),
    [
        (squared(packed), {"layout": "packed"}, False),
        (SHAPE, untouched, False),
        (SHAPE, {**untouched, "padding": "left"}, False),
        (SHAPE, {**untouched, "padding": "left"}, True),
        (SHAPE, {"padding": "left"}, True),
    ],
    ids=["packed", "untouched", "left", "aligned", "aligned zeros"],
)
def test_rows_that_are_stored_see_columns(
    window: Any, sizes: Any, fields: dict[str, Any], aligned: bool
) -> None:
    intervals = intervals_of(sizes, {**fields, "window": window})
    assert any(depends(each, intervals.row.var) for each in conjuncts(intervals.guard))
    assert equal(intervals.guard_of_stored(SOME, aligned=aligned), SOME)


def test_rows_are_asked_what_is_not_known_of_all() -> None:
    # Some rows of a causal mask see nothing where keys are fewer than queries.
    causal = intervals_of(packed, {"layout": "packed", "window": CAUSAL})
    some, sees = conjuncts(causal.guard_of_stored(SOME, aligned=False))
    assert equal(some, SOME)
    assert equal(sees, causal.columns.begin < causal.columns.end)
    # Zeros are stored for rows behind the last valid one, in the same tile.
    zeros = intervals_of(SHAPE, {"padding": "right"})
    _, row = conjuncts(zeros.guard_of_stored(SOME, aligned=False))
    assert equal(row, zeros.row.var < zeros.rows.end)


@pytest.mark.parametrize(
    ("fields", "each"), [(untouched, False), ({}, True), ({"layout": "packed"}, False)], ids=str
)
def test_output_is_selected_by_what_a_tile_is(fields: dict[str, Any], each: bool) -> None:
    spec = PrefillSpec(4, 2, 64, "float16", **fields)
    sizes = packed if spec.is_packed else SHAPE
    module = describe("cuda_wgmma", spec, sizes, {"q_tile": 64, "kv_tile": 64, "ring": 2})
    (total,) = (line for line in module.script().splitlines() if "final_sum[wi] = " in line)
    assert total.partition(" = ")[2].startswith("T.Select(tiles > 0, ") != each
