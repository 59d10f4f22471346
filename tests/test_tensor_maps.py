"""Tensor maps, read as the copy engine reads them: which rows of a tensor a copy is of."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import tvm
from tvm import tirx

from prefilltune.tuning.pipeline.tensor_maps import make_map, makes_map, map_of_view, mapped

TILE, LENGTH = 8, 21
HEADS, COLUMNS, ITEMSIZE = 4, 64, 2
DENSE = (COLUMNS * ITEMSIZE, HEADS * COLUMNS * ITEMSIZE)


@dataclass(frozen=True)
class Map:
    """What ``cuTensorMapEncodeTiled`` is given: numbers of one axis after another."""

    begin: int
    extents: list[int]
    strides: list[int]
    tile: list[int]

    @classmethod
    def of(cls, stmt: Any) -> Map:
        _, _, _, rank, address, *numbers = stmt.value.args
        axes = int(rank)
        _, offset = address.args
        extents, strides, tile = (
            numbers[:axes],
            numbers[axes : 2 * axes - 1],
            numbers[2 * axes - 1 :],
        )
        return cls(
            _known(offset), [*map(_known, extents)], [ITEMSIZE, *map(_known, strides)],
            [*map(_known, tile[:axes])],
        )  # fmt: skip

    def rows(self, left: int, row: int, head: int, batch: list[int]) -> list[int | None]:
        """For each row of a tile, the byte that it begins at; None where it is zeros.

        Coordinates are those of ``intrinsics/ring.py``.
        """
        some = min(left, self.tile[2])
        first = (0, head, self.tile[2] - some, row + some, *batch)
        found: list[int | None] = []
        for each in range(self.tile[2]):
            place = [*first]
            place[2] += each
            inside = all(0 <= at < end for at, end in zip(place, self.extents, strict=True))
            offset = sum(at * by for at, by in zip(place, self.strides, strict=True))
            found.append(self.begin + offset if inside else None)
        return found


def _known(number: Any) -> int:
    known: Any = tvm.sym.Analyzer().simplify(number)
    return int(known)


def _made(shape: tuple[int, ...], strides: list[int]) -> Any:
    source = tirx.decl_buffer(shape, "float16", "k")
    tensor_map = tirx.Var("k_map", tvm.ir.PointerType(tirx.TensorMapType()))
    numbers = [tirx.const(each, "int64") for each in strides]
    return make_map(tensor_map, source, numbers, (COLUMNS, 1, TILE), 3)


def _expected(left: int, row: int, first: int, stride: int) -> list[int | None]:
    return [first + (row + i) * stride if i < left else None for i in range(TILE)]


@pytest.mark.parametrize("left", [-3, 0, 1, 5, TILE, TILE + 9])
@pytest.mark.parametrize("row", [0, 1, 12])
@pytest.mark.parametrize("stride", [DENSE[1], 3 * DENSE[1]], ids=["dense", "view"])
def test_a_copy_ends_with_the_rows_that_are_left(left: int, row: int, stride: int) -> None:
    head_stride, batch_stride = DENSE[0], LENGTH * stride
    padded = Map.of(_made((3, LENGTH, HEADS, COLUMNS), [head_stride, stride, batch_stride]))
    packed = Map.of(_made((LENGTH, HEADS, COLUMNS), [head_stride, stride]))
    for head, batch in product((0, 3), (0, 2)):
        first = head * head_stride + batch * batch_stride
        assert padded.rows(left, row, head, [batch]) == _expected(left, row, first, stride)
    assert packed.rows(left, row, 3, []) == _expected(left, row, 3 * head_stride, stride)


@pytest.mark.parametrize("left", range(TILE + 1))
def test_no_copy_reads_outside_of_the_tensor(left: int) -> None:
    """As long as its rows are those of the tensor: the last ones are read, and nothing behind."""
    row = LENGTH - left
    packed = Map.of(_made((LENGTH, HEADS, COLUMNS), [*DENSE]))
    found = [each for each in packed.rows(left, row, 0, []) if each is not None]
    assert found == [each * DENSE[1] for each in range(row, LENGTH)]
    # Of rows that no tensor has, none is read.
    assert packed.rows(TILE, row + 1, 0, [])[left:] == [None] * (TILE - left)


def test_a_map_of_a_view_is_that_of_its_strides() -> None:
    dense = _made((3, LENGTH, HEADS, COLUMNS), [*DENSE, LENGTH * DENSE[1]])
    strides = [3 * DENSE[1] * LENGTH, 3 * DENSE[1], DENSE[0]]
    view = tirx.decl_buffer(
        (3, LENGTH, HEADS, COLUMNS), "float16", "k",
        strides=[*(each // ITEMSIZE for each in strides), 1],
    )  # fmt: skip
    made = map_of_view(dense, view, [tirx.const(each, "int64") for each in reversed(strides)])
    assert makes_map(made)
    assert mapped(made) == "k"
    expected = _made((3, LENGTH, HEADS, COLUMNS), [*reversed(strides)])
    assert Map.of(made) == Map.of(expected)
    assert Map.of(made) != Map.of(dense)
    assert made.value.args[1].same_as(dense.value.args[1])
