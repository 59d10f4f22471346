"""What the committed sweeps say of packed sequences is what a call of these has."""

from __future__ import annotations

import math

import pytest

from prefilltune.database import committed_root
from prefilltune.tuning.deployment import Sweep, choose, grow, read_sweeps
from prefilltune.tuning.deployment.sweeping import sizes_of_packed
from prefilltune.workloads import Case, PrefillSpec, parse_lengths

SWEEPS = [
    pytest.param(sweep, id=f"{folder.name} {text}")
    for folder in sorted(committed_root().iterdir())
    if folder.is_dir()
    for text, sweep in read_sweeps(folder).items()
    if PrefillSpec.parse(text).is_packed
]


@pytest.mark.parametrize("sweep", SWEEPS)
def test_points_of_packed_sequences_have_the_sizes_of_what_was_drawn(sweep: Sweep) -> None:
    spec = PrefillSpec.parse(sweep.spec)
    for point in sweep.points:
        case = Case(spec, point.shape, parse_lengths(point.lens), sweep.seed)
        assert point.packed == sizes_of_packed(case), (point.shape, point.lens)


@pytest.mark.parametrize("sweep", SWEEPS)
def test_full_and_mixed_lengths_are_served_by_about_the_best(sweep: Sweep) -> None:
    """By what a call says of itself: mixed lengths have another kernel than as long ones alike."""
    tree = grow(sweep.points)
    for lens in {point.lens for point in sweep.points}:
        losses = [
            point.loss(choose(tree, point.sizes)) for point in sweep.points if point.lens == lens
        ]
        assert math.fsum(map(math.log1p, losses)) / len(losses) < 0.01, lens
