"""Boundaries lose no more than they must, and leave no shape without a kernel or with two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefilltune.tuning import deployment as dispatch
from prefilltune.tuning.deployment import (
    Leaf,
    Point,
    Range,
    Split,
    Tree,
    choose,
    grow,
    ranges,
)
from prefilltune.tuning.deployment.boundaries import SIZES, TOLERANCE, Sizes
from prefilltune.workloads import PrefillShape

KERNELS = ("a", "b", "c")
LENS = ("full", "uniform", "fixed:1")

sizes = st.one_of(st.integers(1, 6), st.integers(1, 5000))
shapes = st.builds(PrefillShape, st.integers(1, 64), sizes, sizes)
times = st.floats(1e-6, 1e-1)


@st.composite
def samples(draw: st.DrawFn, most_lens: int = len(LENS)) -> list[Point]:
    kernels = KERNELS[: draw(st.integers(1, len(KERNELS)))]
    return [
        Point(shape, lens, {kernel: draw(times) for kernel in kernels})
        for shape in draw(st.lists(shapes, min_size=1, max_size=8, unique=True))
        for lens in LENS[: draw(st.integers(1, most_lens))]
    ]


def at(points: Sequence[Point], shape: PrefillShape) -> list[Point]:
    return [point for point in points if point.shape == shape]


def holds(where: Range, sizes: Sizes) -> bool:
    def inside(first: int, end: int | None, size: int) -> bool:
        return first <= size and (end is None or size < end)

    return all(inside(*getattr(where, size), getattr(sizes, size)) for size in SIZES)


@given(samples())
def test_no_boundary_has_one_kernel_on_both_its_sides(points: list[Point]) -> None:
    def check(tree: Tree) -> None:
        if isinstance(tree, Split):
            for part, near in ((tree.less, "rest"), (tree.rest, "less")):
                other = tree.rest if part is tree.less else tree.less
                assert part != other
                if isinstance(part, Split) and part.size == tree.size:
                    assert getattr(part, near) != other
                check(part)

    check(grow(points))


@given(samples(most_lens=1))
def test_with_one_distribution_no_measured_shape_loses_more_than_the_tolerance(
    points: list[Point],
) -> None:
    tree = grow(points)
    assert all(point.loss(choose(tree, point.sizes)) <= TOLERANCE for point in points)


@given(samples(), st.floats(0, 0.5))
def test_a_shape_that_loses_more_has_the_kernel_with_the_least_excess_over_its_distributions(
    points: list[Point], tolerance: float
) -> None:
    tree = grow(points, tolerance)
    for shape in {point.shape for point in points}:
        here = at(points, shape)
        kernel = choose(tree, Sizes.of(shape))
        if max(point.loss(kernel) for point in here) > tolerance:
            lost = {
                each: math.fsum(math.log1p(point.excess(each, tolerance)) for point in here)
                for each in here[0].seconds
            }
            assert lost[kernel] == pytest.approx(min(lost.values()))


@given(samples(), st.randoms(use_true_random=False))
def test_the_order_of_points_and_kernels_changes_nothing(points: list[Point], random) -> None:
    shuffled = [Point(p.shape, p.lens, dict(reversed(p.seconds.items()))) for p in points]
    random.shuffle(shuffled)
    assert grow(shuffled) == grow(points)


@given(samples(), st.lists(shapes, max_size=20))
def test_ranges_hold_every_shape_once_and_agree_with_choose(
    points: list[Point], others: list[PrefillShape]
) -> None:
    tree = grow(points)
    parts = list(ranges(tree))
    edges = {bound for part, _ in parts for size in SIZES for bound in getattr(part, size)} - {None}
    at_edges = [PrefillShape(*[max(1, size + step)] * 3) for size in edges for step in (-1, 0, 1)]
    for shape in [*others, *at_edges, *(point.shape for point in points)]:
        (kernel,) = [kernel for part, kernel in parts if holds(part, Sizes.of(shape))]
        assert kernel == choose(tree, Sizes.of(shape))


@given(samples())
def test_no_boundary_parts_a_range_in_vain(points: list[Point]) -> None:
    def splits(tree: Tree) -> list[Split]:
        if isinstance(tree, Leaf):
            return []
        return [tree, *splits(tree.less), *splits(tree.rest)]

    tree = grow(points)
    assert all(split.less != split.rest for split in splits(tree))
    assert len(splits(tree)) < len({point.shape for point in points})
    for part, _ in ranges(tree):
        assert any(holds(part, point.sizes) for point in points)


def square(length: int, **seconds: float) -> Point:
    return Point(PrefillShape(1, length), "full", seconds)


def test_a_difference_within_the_tolerance_is_no_boundary() -> None:
    assert grow([square(8, a=1.0, b=1.01), square(16, a=1.01, b=1.0)]) == Leaf("a")
    assert grow([square(8, a=1.0, b=1.01)], tolerance=0.0) == Leaf("a")
    assert isinstance(grow([square(8, a=1, b=1.1), square(16, a=1.1, b=1)]), Split)


def test_of_equal_kernels_the_first_by_name_serves() -> None:
    assert grow([square(8, b=1.0, a=1.0)]) == Leaf("a")


def test_each_size_can_be_the_boundary() -> None:
    corner = PrefillShape(2, 64, 64)
    for other, size, below in (
        (PrefillShape(8, 64, 64), "batch", 4),
        (PrefillShape(2, 256, 64), "qo_len", 128),
        (PrefillShape(2, 64, 256), "kv_len", 128),
        (PrefillShape(2, 64, 65), "kv_len", 65),
    ):
        points = [Point(corner, "full", {"a": 1, "b": 2}), Point(other, "full", {"a": 2, "b": 1})]
        assert grow(points) == Split(size, below, Leaf("a"), Leaf("b"))


def test_a_kernel_that_is_best_in_the_middle_alone() -> None:
    tree = grow([square(16, a=1, b=2), square(64, a=2, b=1), square(256, a=1, b=2)])
    assert [choose(tree, Sizes(3, n, n)) for n in (1, 31, 32, 127, 128, 9999)] == [*"aabbaa"]


@pytest.mark.parametrize(
    ("where", "text"),
    [
        (Range(), "every shape"),
        (Range(kv_len=(1, 8)), "kv_len < 8"),
        (Range(batch=(4, None), qo_len=(2, 8)), "batch >= 4, 2 <= qo_len < 8"),
    ],
)
def test_ranges_read_as_a_person_writes_them(where: Range, text: str) -> None:
    assert str(where) == text


def test_a_sample_has_the_tuned_shapes_and_those_around_them() -> None:
    tuned = [PrefillShape(4, 64), PrefillShape(4, 512), PrefillShape(2, 8, 99), PrefillShape(1, 1)]
    found = dispatch.sample(tuned)
    assert set(tuned) < set(found)
    assert len(found) == len(set(found))
    for batch, shortest, longest in ((4, 32, 1024), (2, 49, 196), (1, 1, 4)):
        lengths = [shape.num_kv for shape in found if shape.batch == batch]
        assert (min(lengths), max(lengths)) == (shortest, longest)
        assert any(length % 2 for length in lengths)
    assert [shape for shape in found if shape.qo_len != shape.num_kv] == [tuned[2]]


def test_what_may_be_noise_makes_no_boundary() -> None:
    quiet = [
        Point(PrefillShape(1, 16), "full", {"a": 1.00, "b": 1.04}),
        Point(PrefillShape(1, 64), "full", {"a": 1.05, "b": 1.00}),
    ]
    assert isinstance(grow(quiet), Split)
    assert grow([replace(point, noise=0.06) for point in quiet]) == Leaf("b")
    loud = [*quiet, Point(PrefillShape(1, 256), "full", {"a": 9.0, "b": 1.0}, noise=0.06)]
    assert grow([replace(point, noise=0.06) for point in loud]) == Leaf("b")


def test_packed_sequences_are_told_apart_by_what_a_call_of_them_says() -> None:
    def packed(mean: int, longest: int, **seconds: float) -> Point:
        return Point(PrefillShape(8, longest), "any", seconds, packed=Sizes(8, mean, mean, longest))

    tree = grow([packed(512, 512, a=1.0, b=1.2), packed(320, 512, a=1.2, b=1.0)])
    assert tree == Split("mixed", 1, Leaf("a"), Leaf("b"))
    assert [str(where) for where, _ in ranges(tree)] == ["lengths alike", "mixed lengths"]
    assert choose(tree, Sizes(8, 100, 100, 110)) == "a"
    assert choose(tree, Sizes(8, 100, 100)) == "b"
