"""Tiles that are transposed in registers: what they hold stays, and they move as vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from tvm.s_tir import Schedule
from tvm.script import tirx as T

from prefilltune.tuning.errors import PipelineError
from prefilltune.tuning.pipeline import TRANSPOSE, pipeline

ROWS, COLUMNS = 32, 48


@T.prim_func(s_tir=True)
def _transposition(
    rows: T.Buffer((30, 48), "float16"),  # pyright: ignore
    columns: T.Buffer((48, 32), "float32"),  # pyright: ignore
):
    T.func_attr({"global_symbol": "main", "tirx.noalias": True})
    for i, j in T.grid(32, 48):
        with T.sblock("copy"):
            vi, vj = T.axis.remap("SS", [i, j])
            columns[vj, vi] = T.Cast("float32", rows[T.min(vi, 29), vj])


def _annotated(high: int, wide: int, *, of_columns: bool = False) -> tvm.IRModule:
    schedule: Any = Schedule(tvm.IRModule({"main": _transposition}))
    row, column = schedule.get_loops("copy")
    row, in_row = schedule.split(row, [None, high])
    column, in_column = schedule.split(column, [None, wide])
    inner = (in_column, in_row) if of_columns else (in_row, in_column)
    schedule.reorder(row, column, *inner)
    schedule.annotate(inner[0], TRANSPOSE, 1)
    return schedule.mod


@pytest.mark.parametrize("side", [2, 4, 8, 16])
def test_a_tile_is_transposed(side: int) -> None:
    """Converted on the way; rows that are asked for and not there are others."""
    module = pipeline(_annotated(side, side))
    assert (
        f"columns[j_0 * {side}, i_0 * {side}:i_0 * {side} + {side}] = T.Shuffle" in module.script()
    )
    source = np.random.default_rng(side).standard_normal((30, COLUMNS)).astype("float16")
    result = tvm.runtime.tensor(np.zeros((COLUMNS, ROWS), "float32"))
    tvm.compile(module, target="llvm")["main"](tvm.runtime.tensor(source), result)
    expected = source[np.minimum(np.arange(ROWS), 29)].T
    np.testing.assert_array_equal(result.numpy(), expected.astype("float32"))


@pytest.mark.parametrize(
    "module",
    [_annotated(8, 4), _annotated(3, 3), _annotated(8, 8, of_columns=True)],
    ids=["not square", "no power of two", "columns first"],
)
def test_what_is_no_such_copy_is_refused(module: tvm.IRModule) -> None:
    with pytest.raises(PipelineError, match="let it have a power of two steps"):
        pipeline(module)
