from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from database_fixtures import KEY, SPEC_TEXT, edit_provenance, filled, small_entry
from hypothesis import given
from hypothesis import strategies as st

from prefilltune.database import (
    Finder,
    Match,
    NoRecordError,
    TargetKey,
    Tier,
    VersionMismatchError,
    lookup,
    nearly_fastest,
    shape_distance,
    store,
)
from prefilltune.database.reading import read_folder
from prefilltune.workloads import PrefillShape, PrefillSpec

SPEC = PrefillSpec.parse(SPEC_TEXT)
SHAPE = PrefillShape(1, 32)
LEVELS = ("x86-64-v4", "x86-64-v3")
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
    asked = replace(KEY, levels=LEVELS)
    v4, v3 = asked.portable
    wider = small_entry(5, shape="b2_q32_kv32")
    theirs = small_entry(3, shape="b8_q32_kv32")
    tiers = [
        (Tier.OTHER_TARGET, COUSIN, [small_entry(4)], small_entry(4), 0),
        (Tier.PORTABLE, v3, [small_entry(6)], small_entry(6), 0),
        (Tier.PORTABLE, v4, [wider], wider, 1),
        (Tier.FAMILY, SIBLING, [theirs], theirs, 3),
        (Tier.NEAREST_SHAPE, KEY, [far, near], near, 2),
        (Tier.EXACT, KEY, [small_entry(0)], small_entry(0), 0),
    ]
    for tier, key, entries, expected, distance in tiers:
        filled(tmp_path, entries, key)
        match = lookup([tmp_path], asked, SPEC, SHAPE, accept=Tier.OTHER_TARGET)
        assert (match.entry, match.tier, match.key) == (expected, tier, key)
        assert match.distance == distance
        assert match.root == tmp_path
        if tier > Tier.EXACT:
            with pytest.raises(NoRecordError, match=str(tier)):
                lookup([tmp_path], asked, SPEC, SHAPE, accept=Tier(tier - 1))
    nearest = [KEY, SIBLING, v4, v3, COUSIN]
    assert Finder([tmp_path]).targets(asked, Tier.OTHER_TARGET) == nearest
    assert Finder([tmp_path]).targets(asked, Tier.FAMILY) == nearest[:2]
    together = [[KEY, SIBLING], [v4], [v3], [COUSIN]]
    assert Finder([tmp_path]).families(asked, Tier.OTHER_TARGET) == together
    assert Finder([tmp_path]).families(asked, Tier.EXACT) == [[KEY]]


def test_within_a_family_the_nearer_shape_comes_first_and_then_the_own_record(tmp_path):
    own, theirs = small_entry(1, shape="b2_q32_kv32"), small_entry(2, secs=1e-3)
    filled(tmp_path, [own], KEY)
    filled(tmp_path, [theirs, small_entry(3, shape="b2_q32_kv32", secs=1e-6)], SIBLING)

    def found(batch, **options):
        match = lookup([tmp_path], KEY, SPEC, PrefillShape(batch, 32), **options)
        return match.entry, match.tier, match.key

    near = (own, Tier.NEAREST_SHAPE, KEY)
    for accept in (Tier.FAMILY, Tier.PORTABLE, Tier.OTHER_TARGET):
        assert found(1, accept=accept) == (theirs, Tier.FAMILY, SIBLING)
        assert found(2, accept=accept) == (own, Tier.EXACT, KEY)
        assert found(4, accept=accept) == near  # both have a record of the nearest shape
    assert found(1, accept=Tier.NEAREST_SHAPE) == near


def test_within_a_family_lengths_and_the_spec_itself_come_before_the_device(tmp_path):
    """Times of other lengths and specs differ by more than those of two devices of a family."""
    mixed, full = small_entry(1, lens="uniform"), small_entry(2)
    filled(tmp_path, [mixed], KEY)
    filled(tmp_path, [full, small_entry(3, lens="uniform")], SIBLING)

    def found(spec=SPEC, **options):
        match = lookup([tmp_path], KEY, spec, SHAPE, accept=Tier.FAMILY, **options)
        return match.entry, match.key, match.stands_in

    assert found(lens="uniform") == (mixed, KEY, False)
    assert found(lens="full") == found() == (full, SIBLING, False)
    untouched = replace(SPEC, padding_output="untouched")
    assert found(untouched, lens="uniform") == (mixed, KEY, True)
    theirs = small_entry(4, spec=str(untouched))
    filled(tmp_path, [full, theirs], SIBLING)
    assert found(untouched, lens="uniform") == (theirs, SIBLING, False)


def test_farther_targets_are_not_read_where_the_family_has_a_record(tmp_path, monkeypatch):
    read = []

    def noted(folder, *arguments, **options):
        read.append(folder.name)
        return read_folder(folder, *arguments, **options)

    for key in (KEY, SIBLING, COUSIN):
        filled(tmp_path, [small_entry(1)], key)
    monkeypatch.setattr(store, "read_folder", noted)
    lookup([tmp_path], KEY, SPEC, SHAPE)
    assert read == [str(KEY)]
    lookup([tmp_path], KEY, SPEC, SHAPE, accept=Tier.OTHER_TARGET)
    assert read == [str(KEY), str(KEY), str(SIBLING)]


def test_an_own_record_of_another_shape_comes_before_what_is_portable(tmp_path):
    own, portable = small_entry(1, shape="b2_q32_kv32"), small_entry(2)
    asked = replace(KEY, levels=LEVELS)
    filled(tmp_path, [own], KEY)
    filled(tmp_path, [portable], asked.portable[0])
    match = lookup([tmp_path], asked, SPEC, SHAPE, accept=Tier.OTHER_TARGET)
    assert (match.entry, match.tier) == (own, Tier.NEAREST_SHAPE)


def test_matches_rank_as_look_ups_prefer_them(tmp_path):
    def match(tier, key, distance):
        return Match(small_entry(0), tier, distance, key, tmp_path)

    farthest_first = [
        match(Tier.OTHER_TARGET, COUSIN, 0.0),
        match(Tier.NEAREST_SHAPE, KEY, 2.0),
        match(Tier.FAMILY, SIBLING, 1.0),
        match(Tier.NEAREST_SHAPE, KEY, 1.0),
        match(Tier.FAMILY, SIBLING, 0.0),
        match(Tier.EXACT, KEY, 0.0),
    ]
    assert sorted(farthest_first, key=lambda each: each.rank) == farthest_first[::-1]


def test_devices_of_an_architecture_come_before_what_is_portable_to_it(tmp_path):
    """Where the architecture alone is known, as of a GPU that is elsewhere."""
    level, device = TargetKey("cuda", "sm_80"), TargetKey("cuda", "sm_80", "a100")
    filled(tmp_path, [replace(small_entry(0), target_json={"kind": "cuda"})], level)
    asked = replace(level, levels=("sm_80", "sm_75"))
    find = partial(lookup, [tmp_path], spec=SPEC, shape=SHAPE, accept=Tier.PORTABLE)
    assert find(key=asked).tier is Tier.PORTABLE
    assert find(key=replace(level, levels=("sm_75",))).tier is Tier.EXACT
    finder = Finder([tmp_path])
    assert finder.targets(asked, Tier.PORTABLE) == [level]
    assert finder.targets(asked, Tier.FAMILY) == []
    filled(tmp_path, [replace(small_entry(1), target_json={"kind": "cuda"})], device)
    assert (find(key=asked).tier, find(key=asked).key) == (Tier.FAMILY, device)


def test_another_kind_is_never_a_match(tmp_path):
    entry = replace(small_entry(0), target_json={"kind": "cuda"})
    filled(tmp_path, [entry], TargetKey("cuda", "sm_90a"))
    with pytest.raises(NoRecordError, match="none of this spec"):
        lookup([tmp_path], KEY, SPEC, SHAPE, accept=Tier.OTHER_TARGET)


def test_another_spec_is_never_a_match(tmp_path):
    filled(tmp_path, [small_entry(0)])
    with pytest.raises(NoRecordError):
        lookup([tmp_path], KEY, PrefillSpec(2, 1, 16, "float32"), SHAPE, accept=Tier.OTHER_TARGET)


def test_a_miss_names_other_specs_of_the_same_heads(tmp_path):
    window = replace(SPEC, window=(8, 8))
    near = [replace(SPEC, window=(16, 16)), replace(window, softcap=30.0, bias="relative")]
    heads = replace(window, num_qo_heads=24, num_kv_heads=24)
    specs = [heads, *reversed(near), f"{SPEC}_sparse7"]  # the last is another version's
    filled(tmp_path, [small_entry(i, spec=str(each)) for i, each in enumerate(specs)])
    assert Finder([tmp_path]).specs_near(KEY, window) == near
    with pytest.raises(NoRecordError) as caught:
        lookup([tmp_path], KEY, window, SHAPE)
    named = ", ".join(map(str, near))
    assert f"there are records of {named}, and a record serves its own" in str(caught.value)


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


def test_times_of_other_lengths_win_nothing(tmp_path):
    """Of padding there is less to compute: without a wish, and after it, stands the full batch."""
    full = [small_entry(0, secs=3e-3, lens="full"), small_entry(1, secs=2e-3, lens="full")]
    mixed = [small_entry(2, secs=1e-3, lens="uniform"), small_entry(3, secs=5e-4, lens="fixed:1")]

    def found(root, lens=None):
        return lookup([root], KEY, SPEC, SHAPE, lens=lens).entry

    filled(tmp_path / "both", [*mixed, *full])
    filled(tmp_path / "mixed", mixed)
    assert found(tmp_path / "both") == full[1]
    assert found(tmp_path / "both", "full") == full[1]
    assert found(tmp_path / "both", "uniform") == mixed[0]
    assert found(tmp_path / "both", "uniform:0.5-1") == full[1]
    assert found(tmp_path / "mixed") == mixed[1]
    assert found(tmp_path / "mixed", "full") == mixed[1]


def test_of_several_databases_the_one_with_full_lengths_serves(tmp_path):
    full, mixed = small_entry(0, secs=2e-3), small_entry(1, secs=1e-3, lens="uniform")
    filled(tmp_path / "own", [mixed])
    filled(tmp_path / "committed", [full])
    match = lookup([tmp_path / "own", tmp_path / "committed"], KEY, SPEC, SHAPE)
    assert (match.entry, match.root) == (full, tmp_path / "committed")


def test_the_other_dtype_of_16_bits_serves_where_there_is_none_of_its_own(tmp_path):
    half, brain = (replace(SPEC, dtype=dtype) for dtype in ("float16", "bfloat16"))
    filled(tmp_path, [small_entry(1, spec=str(half), secs=1e-6)], KEY)
    assert lookup([tmp_path], KEY, brain, SHAPE).entry.provenance.spec == str(half)
    wide = replace(brain, lse_dtype="float32")
    assert lookup([tmp_path], KEY, wide, SHAPE).entry.provenance.spec == str(half)
    turing = TargetKey("cuda", "sm_75")
    filled(
        tmp_path, [replace(small_entry(3, spec=str(half)), target_json={"kind": "cuda"})], turing
    )
    assert lookup([tmp_path], turing, half, SHAPE).tier is Tier.EXACT
    with pytest.raises(NoRecordError):
        lookup([tmp_path], turing, brain, SHAPE)
    own = small_entry(2, spec=str(brain), shape="b8_q64_kv64")
    filled(tmp_path, [own], KEY)
    assert lookup([tmp_path], KEY, brain, SHAPE, accept=Tier.NEAREST_SHAPE).entry == own


def test_on_cpus_float32_serves_16_bits(tmp_path):
    """What they compute with; but records of either dtype of 16 bits are nearer."""
    half, brain = (replace(SPEC, dtype=dtype) for dtype in ("float16", "bfloat16"))
    for key, json_of in ((KEY, "llvm"), (TargetKey("cuda", "sm_90a", "h100"), "cuda")):
        wide = replace(small_entry(1, spec=str(SPEC), secs=1e-6), target_json={"kind": json_of})
        filled(tmp_path, [wide], key)
    match = lookup([tmp_path], KEY, replace(brain, lse_dtype="float32"), SHAPE)
    assert (match.tier, match.entry.provenance.spec) == (Tier.EXACT, str(SPEC))
    with pytest.raises(NoRecordError):
        lookup([tmp_path], key, brain, SHAPE)
    filled(tmp_path, [small_entry(2, spec=str(half))], KEY)
    assert lookup([tmp_path], KEY, brain, SHAPE).entry.provenance.spec == str(half)
    assert lookup([tmp_path], KEY, SPEC, SHAPE).entry.provenance.spec == str(SPEC)


def test_what_stands_in_comes_behind_also_from_another_database(tmp_path):
    """Times of padded tensors, or without padding written, say nothing beside times of the spec."""
    packed = replace(SPEC, layout="packed")
    own, other = tmp_path / "own", tmp_path / "other"
    mine = small_entry(1, secs=9.0, spec=str(packed), lens="uniform")
    filled(own, [mine], KEY)
    filled(other, [small_entry(2, secs=1.0)], KEY)
    for roots in ([own, other], [other, own]):
        assert lookup(roots, KEY, packed, SHAPE).entry == mine
        assert lookup(roots, KEY, SPEC, SHAPE).entry == small_entry(2, secs=1.0)
    untouched = replace(SPEC, padding_output="untouched")
    filled(own, [small_entry(3, secs=9.0, spec=str(untouched))], KEY)
    assert lookup([own, other], KEY, untouched, SHAPE).entry.record_id != small_entry(2).record_id


def test_a_damaged_record_leaves_its_place_to_the_next(tmp_path):
    full, mixed = small_entry(0, secs=2e-3), small_entry(1, secs=1e-3, lens="uniform")
    folder = filled(tmp_path, [full, mixed]).folder
    assert lookup([tmp_path], KEY, SPEC, SHAPE).entry == full
    lines = (folder / "records.json").read_text().splitlines(keepends=True)
    (folder / "records.json").write_text("".join(lines[1:]))
    assert lookup([tmp_path], KEY, SPEC, SHAPE).entry == mixed


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


# Near-ties


@pytest.mark.parametrize(
    ("slower", "spread", "is_near"),
    [
        (1.0, 0.0, True),
        (1.01, 0.0, False),
        (1.01, 0.02, True),
        (1.03, 0.02, False),
        (1.06, 0.5, False),  # a badly measured record is not a fast one
    ],
)
def test_records_within_the_noise_of_the_fastest_are_as_fast(slower, spread, is_near):
    one = small_entry(0, secs=1e-3, spread_secs=0.0)
    for number in range(1, 9):  # whichever has the smaller id
        other = small_entry(number, secs=1e-3 * slower, spread_secs=1e-3 * spread)
        expected = sorted([one.record_id, other.record_id]) if is_near else [one.record_id]
        for heads in ([one.head, other.head], [other.head, one.head]):
            assert [head.record_id for head in nearly_fastest(heads)] == expected


def test_noise_does_not_change_which_record_is_found(tmp_path):
    """Two machines measured the same records; each median moved by less than the spread."""
    found = set()
    for machine, factors in enumerate([(1.0, 1.01, 1.015), (1.012, 1.0, 1.004)]):
        entries = [
            small_entry(number, secs=1e-3 * factor, spread_secs=3e-5)
            for number, factor in enumerate(factors)
        ]
        filled(tmp_path / str(machine), entries)
        found.add(lookup([tmp_path / str(machine)], KEY, SPEC, SHAPE).entry.record_id)
    assert len(found) == 1


def test_near_ties_do_not_chain(tmp_path):
    """Nearness is to the fastest: a row of near neighbours does not lead to a slow one."""
    entries = [small_entry(n, secs=1e-3 * (1 + 0.02 * n), spread_secs=2e-5) for n in range(20)]
    filled(tmp_path, entries)
    assert lookup([tmp_path], KEY, SPEC, SHAPE).entry.provenance.median_secs <= 1.021e-3


def test_equal_distances_are_a_tie_whatever_log2_rounds_to(tmp_path):
    """b3 and b12 are equally far from b6; the faster record wins, not the last digit."""
    for fast, slow in (("b3_q32_kv32", "b12_q32_kv32"), ("b12_q32_kv32", "b3_q32_kv32")):
        root = tmp_path / fast
        filled(root, [small_entry(0, secs=1e-3, shape=fast), small_entry(1, shape=slow)])
        match = lookup([root], KEY, SPEC, PrefillShape(6, 32), accept=Tier.NEAREST_SHAPE)
        assert match.entry.provenance.shape == fast


def test_of_one_record_in_two_databases_the_faster_is_taken(tmp_path):
    slow, fast = small_entry(0, secs=1.001e-3), small_entry(0, secs=1e-3)
    for name, entry in (("a", slow), ("b", fast)):
        filled(tmp_path / name, [entry])
    for roots in ([tmp_path / "a", tmp_path / "b"], [tmp_path / "b", tmp_path / "a"]):
        match = lookup(roots, KEY, SPEC, SHAPE)
        assert (match.entry, match.root) == (fast, tmp_path / "b")


def test_a_finder_answers_from_one_reading(tmp_path):
    filled(tmp_path, [small_entry(0), small_entry(1, shape="b2_q32_kv32")])
    finder = Finder([tmp_path])
    first = finder.find(KEY, SPEC, SHAPE)
    filled(tmp_path, [small_entry(2, secs=1e-4)])
    assert finder.find(KEY, SPEC, SHAPE) == first
    assert finder.find(KEY, SPEC, PrefillShape(2, 32)).entry == small_entry(1, shape="b2_q32_kv32")
    assert Finder([tmp_path]).find(KEY, SPEC, SHAPE).entry == small_entry(2, secs=1e-4)


def test_groups_name_every_shape_lens_and_space_of_a_spec_once(tmp_path):
    own, committed = tmp_path / "own", tmp_path / "committed"
    other = str(replace(SPEC, padding="left", window=(None, 0)))
    filled(own, [small_entry(0), small_entry(1), small_entry(2, space="other")])
    filled(committed, [small_entry(3), small_entry(4, lens="uniform"), small_entry(5, spec=other)])
    filled(committed, [small_entry(6, shape="b9_q9_kv9")], SIBLING)
    finder = Finder([own, tmp_path / "none", committed])
    assert finder.groups(KEY, SPEC) == [
        (SHAPE, "full", "online_cpu"),
        (SHAPE, "full", "other"),
        (SHAPE, "uniform", "online_cpu"),
    ]
    assert finder.groups(COUSIN, SPEC) == []
    assert not (tmp_path / "none").exists()


def test_a_finder_tells_the_workloads_of_a_target_and_what_is_no_record(tmp_path):
    own, committed = tmp_path / "own", tmp_path / "committed"
    filled(own, [small_entry(0), small_entry(1, lens="uniform")])
    store = filled(committed, [small_entry(2, shape="b2_q32_kv32")])
    filled(committed, [small_entry(3, shape="b9_q9_kv9")], SIBLING)
    with (store.folder / "records.json").open("a") as file:
        file.write("no record\n")
    finder = Finder([own, tmp_path / "none", committed])
    ((path, bad),) = finder.bad_lines(KEY)
    assert (path, bad.line, bad.text) == (store.folder / "records.json", 2, "no record")
    assert finder.workloads(KEY) == {(str(SPEC), str(SHAPE)), (str(SPEC), "b2_q32_kv32")}
    assert finder.workloads(COUSIN) == set()


def test_groups_of_another_tvm_are_refused(tmp_path):
    edit_provenance(filled(tmp_path, [small_entry(0)]), tvm="0.26.0")
    with pytest.raises(VersionMismatchError, match=r"0\.26\.0"):
        Finder([tmp_path]).groups(KEY, SPEC)
