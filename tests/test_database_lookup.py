from __future__ import annotations

import pytest
from database_fixtures import KEY, SPEC_TEXT, edit_provenance, filled, small_entry
from hypothesis import given
from hypothesis import strategies as st

from prefilltune.database import (
    NoRecordError,
    TargetKey,
    Tier,
    VersionMismatchError,
    lookup,
    shape_distance,
)
from prefilltune.workloads import PrefillShape, PrefillSpec

SPEC = PrefillSpec.parse(SPEC_TEXT)
SHAPE = PrefillShape(1, 32)
SIBLING, COUSIN = TargetKey("llvm", "znver4", "8c"), TargetKey("llvm", "apple_m1", "8c")
SHAPES = st.builds(PrefillShape, *[st.integers(1, 4096)] * 3)


@given(SHAPES, SHAPES)
def test_the_distance_is_symmetric_and_0_only_for_equal_shapes(one, other):
    assert shape_distance(one, other) == shape_distance(other, one)
    assert (shape_distance(one, other) == 0) == (one == other)


def test_doubling_a_size_costs_1():
    assert shape_distance(PrefillShape(4, 128), PrefillShape(8, 128)) == 1
    assert shape_distance(PrefillShape(4, 128), PrefillShape(4, 64)) == 2


def test_each_tier_is_found_only_when_accepted(tmp_path):
    near = small_entry(1, shape="b1_q64_kv64")
    far = small_entry(2, shape="b8_q64_kv64")
    tiers = [
        (Tier.OTHER_TARGET, COUSIN, [small_entry(4)], small_entry(4), 0),
        (Tier.FAMILY, SIBLING, [small_entry(3)], small_entry(3), 0),
        (Tier.NEAREST_SHAPE, KEY, [far, near], near, 2),
        (Tier.EXACT, KEY, [small_entry(0)], small_entry(0), 0),
    ]
    for tier, key, entries, expected, distance in tiers:
        filled(tmp_path, entries, key)
        match = lookup([tmp_path], KEY, SPEC, SHAPE, accept=Tier.OTHER_TARGET)
        assert (match.entry, match.tier, match.key) == (expected, tier, key)
        assert match.distance == distance
        assert match.root == tmp_path
        if tier > Tier.EXACT:
            with pytest.raises(NoRecordError, match=str(tier)):
                lookup([tmp_path], KEY, SPEC, SHAPE, accept=Tier(tier - 1))


def test_another_kind_is_never_a_match(tmp_path):
    filled(tmp_path, [small_entry(0)], TargetKey("cuda", "sm_90a"))
    with pytest.raises(NoRecordError, match="none of this spec"):
        lookup([tmp_path], KEY, SPEC, SHAPE, accept=Tier.OTHER_TARGET)


def test_another_spec_is_never_a_match(tmp_path):
    filled(tmp_path, [small_entry(0)])
    with pytest.raises(NoRecordError):
        lookup([tmp_path], KEY, PrefillSpec(2, 1, 16, "float32"), SHAPE, accept=Tier.OTHER_TARGET)


def test_order_within_a_tier(tmp_path):
    entries = [
        small_entry(0, secs=3e-3, lens="mixed"),
        small_entry(1, secs=2e-3, lens="mixed"),
        small_entry(2, secs=1e-3, lens="full"),
        small_entry(3, secs=5e-4, lens="full", space="other"),
    ]
    filled(tmp_path, entries)

    def find(**options):
        return lookup([tmp_path], KEY, SPEC, SHAPE, **options).entry

    assert find() == entries[3]
    assert find(lens="mixed") == entries[1]
    assert find(lens="mixed", space="other") == entries[3]
    assert find(lens="unknown", space="online_cpu") == entries[2]
    with pytest.raises(NoRecordError, match="space nowhere"):
        find(space="nowhere")


def test_a_nearer_shape_goes_before_the_wanted_lens(tmp_path):
    near = small_entry(0, shape="b2_q32_kv32", lens="mixed")
    far = small_entry(1, shape="b4_q32_kv32", lens="full")
    filled(tmp_path, [near, far])
    match = lookup([tmp_path], KEY, SPEC, SHAPE, lens="full", accept=Tier.NEAREST_SHAPE)
    assert (match.entry, match.distance) == (near, 1)


def test_a_tie_is_broken_by_id(tmp_path):
    entries = [small_entry(number) for number in range(5)]
    filled(tmp_path, entries)
    found = lookup([tmp_path], KEY, SPEC, SHAPE).entry
    assert found.record_id == min(entry.record_id for entry in entries)


def test_all_roots_are_searched_and_none_is_made(tmp_path):
    missing, slow, fast = tmp_path / "missing", tmp_path / "slow", tmp_path / "fast"
    filled(slow, [small_entry(0, secs=2e-3)])
    filled(fast, [small_entry(1, secs=1e-3)])
    match = lookup([missing, slow, fast], KEY, SPEC, SHAPE)
    assert (match.root, match.entry) == (fast, small_entry(1, secs=1e-3))
    assert not missing.exists()


def test_a_miss_names_all_that_helps(tmp_path):
    filled(tmp_path / "one", [small_entry(1, shape="b4_q32_kv32")])
    with pytest.raises(NoRecordError) as caught:
        lookup([tmp_path / "one", tmp_path / "two"], KEY, SPEC, SHAPE)
    words = [
        SPEC_TEXT, str(SHAPE), str(KEY), f"{tmp_path / 'one'}", f"{tmp_path / 'two'} does not",
        "b4_q32_kv32", "distance 2.00", "prefilltune tune",
    ]  # fmt: skip
    assert [word for word in words if word not in str(caught.value)] == []


def test_an_untrusted_folder_of_this_target_is_an_error_and_of_another_a_note(tmp_path):
    edit_provenance(filled(tmp_path, [small_entry(0)], SIBLING), tvm="0.26.0")
    with pytest.raises(NoRecordError, match=r"skipped.*0\.26\.0"):
        lookup([tmp_path], KEY, SPEC, SHAPE, accept=Tier.FAMILY)
    with pytest.raises(VersionMismatchError):
        lookup([tmp_path], SIBLING, SPEC, SHAPE)
