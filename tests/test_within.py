"""What an attention amounts to in a shape: windows that hide nothing there."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from prefilltune.workloads import PrefillShape, PrefillSpec, SymbolicShape
from prefilltune.workloads.pairs import seen_pairs, written_rows

ENDS = (None, 0, 1, 2, 3, 4, 5)


@pytest.mark.parametrize("padding", ["right", "left"])
def test_specs_keep_the_same_pairs_if_and_only_if_they_amount_to_the_same(padding):
    for qo_len, kv_len in product(range(1, 6), repeat=2):
        shape, lens = PrefillShape(1, qo_len, kv_len), np.arange(max(qo_len, kv_len) + 2)
        found: dict[bytes, set[PrefillSpec]] = {}
        for window in product(ENDS, repeat=2):
            spec = PrefillSpec(1, 1, 64, padding=padding, window=window)
            pairs = seen_pairs(spec, lens, qo_len, kv_len).tobytes()
            found.setdefault(pairs, set()).add(spec.within(shape))
        assert all(len(each) == 1 for each in found.values()), shape
        assert len(set.union(*found.values())) == len(found), shape


@pytest.mark.parametrize("output", ["zero", "untouched"])
def test_what_a_spec_amounts_to_differs_in_its_window_alone(output):
    spec = PrefillSpec(4, 2, 64, window=(7, 3), softcap=30, padding_output=output)
    within = spec.within(PrefillShape(2, 4, 8))
    assert within == PrefillSpec(4, 2, 64, softcap=30, padding_output=output)
    assert within.within(PrefillShape(2, 4, 8)) == within
    lens = np.arange(9)
    assert (written_rows(within, lens, 4) == written_rows(spec, lens, 4)).all()


def test_lengths_that_nobody_bounds_leave_every_window():
    spec = PrefillSpec(4, 2, 64, window=(0, 0))
    sizes = SymbolicShape.fresh()
    assert spec.within(sizes) is spec
    assert spec.within(SymbolicShape(sizes.batch, 1, 1)) == PrefillSpec(4, 2, 64)
    packed = PrefillSpec(4, 2, 64, layout="packed", window=(0, 0))
    assert packed.within(PrefillShape(2, 1)) is packed
