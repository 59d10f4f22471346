"""Which records serve a spec, where the boundaries come from, and what is said of what lacks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import said
from database_fixtures import KEY, edit_provenance, filled, small_entry
from dispatch_fixtures import SPEC, swept
from hypothesis import given
from hypothesis import strategies as st

from prefilltune.database import (
    Entry,
    Finder,
    NoRecordError,
    TargetKey,
    Tier,
    VersionMismatchError,
    record_id,
)
from prefilltune.tuning.deployment import (
    Leaf,
    Point,
    Serving,
    Sizes,
    Split,
    Sweep,
    candidates,
    choose,
    choose_kernel,
    choose_serving,
    grow,
    write_sweep,
)
from prefilltune.tuning.deployment.explanation import explanation_lines
from prefilltune.tuning.deployment.nearness import nearness
from prefilltune.tuning.errors import InvalidOptionError
from prefilltune.tuning.swept import swept_records
from prefilltune.tuning.target import ResolvedTarget
from prefilltune.workloads import PrefillShape

CPU = ResolvedTarget(None, KEY, 2)
H100, H200, ANY = (TargetKey("cuda", "sm_90a", device) for device in ("h100", "h200", ""))


def gpu(key: TargetKey) -> ResolvedTarget:
    return ResolvedTarget(None, key, 1, is_here=bool(key.device))


def entry(number: int, shape: str, space: str = "llvm_fused", **fields: Any) -> Entry:
    small = small_entry(number, shape=shape, **{"spec": str(SPEC), "space": space, **fields})
    kind, _, _ = space.partition("_")
    return replace(small, target_json={"kind": kind})


SHORT, LONG, STOCK = (
    entry(1, "b1_q16_kv16"),
    entry(2, "b2_q64_kv64"),
    entry(3, "b1_q16_kv16", "llvm_stock", secs=1e-3),
)
TIMES = {
    "1x16": {SHORT.record_id: 1.0, LONG.record_id: 2.0},
    "2x64": {SHORT.record_id: 2.0, LONG.record_id: 1.0},
}
TREE = Split("kv_len", 32, Leaf(SHORT.record_id), Leaf(LONG.record_id))
COMMAND = "prefilltune sweep --target llvm --heads 2/1x16 --mask-mode padded --dtype float32"


def serving(root: Path, target: ResolvedTarget = CPU, **options: Any) -> Serving:
    return choose_serving(SPEC, target, Finder([root]), **options)


def test_a_single_record_serves_everything_without_a_sweep(tmp_path: Path) -> None:
    filled(tmp_path, [SHORT])
    found = serving(tmp_path)
    assert (found.tree, found.sweep, found.notes) == (Leaf(SHORT.record_id), None, ())
    match = found.choose(Sizes(9, 999, 7))
    assert match is not None
    assert (match.entry, match.tier) == (SHORT, Tier.EXACT)
    described = {
        "record": SHORT.record_id,
        "tier": "exact",
        "tuned_for": "llvm-znver4-2c",
        "timed_on": SHORT.provenance.device["name"],
        "tuned_as": str(SPEC),
        "tuned_at": "b1_q16_kv16",
        "lens": "full",
        "space": "llvm_fused",
    }
    assert found.as_data() == {
        "spec": str(SPEC),
        "target": "llvm-znver4-2c",
        "kernels": [
            {"serves": "qo_len = kv_len = 16", **described},
            {"serves": "other lengths", **described},
        ],
        "boundaries": None,
        "distributions": [],
        "notes": [],
    }


def test_several_records_serve_what_was_measured(tmp_path: Path) -> None:
    filled(tmp_path, [SHORT, LONG])
    swept(tmp_path, SPEC, TIMES, KEY)
    found = serving(tmp_path)
    assert (found.tree, found.notes) == (TREE, ())
    for shape in (PrefillShape(1, 8), PrefillShape(99, 31), PrefillShape(1, 1, 32)):
        match = found.choose(Sizes.of(shape))
        assert match is not None
        assert match.entry.record_id == choose(TREE, Sizes.of(shape))
    data = found.as_data()
    assert [(each["serves"], each["tuned_at"]) for each in data["kernels"]] == [
        ("qo_len = kv_len = 16", "b1_q16_kv16"),
        ("qo_len = kv_len = 64", "b2_q64_kv64"),
        ("other lengths, kv_len < 32", "b1_q16_kv16"),
        ("other lengths, kv_len >= 32", "b2_q64_kv64"),
    ]
    assert data["boundaries"] == {
        "measured_on": {"name": "test"}, "date": "2026-11-23", "points": 2,
    }  # fmt: skip


def chosen(found: Serving, shape: PrefillShape) -> str:
    match = found.choose(Sizes.of(shape))
    assert match is not None
    return match.entry.record_id


def test_a_record_that_is_nowhere_else_the_best_serves_its_own_lengths(tmp_path: Path) -> None:
    filled(tmp_path, [SHORT, LONG])
    slower = {shape: {SHORT.record_id: 2.0, LONG.record_id: 1.0} for shape in TIMES}
    swept(tmp_path, SPEC, slower, KEY)
    found = serving(tmp_path)
    assert (found.tree, found.notes) == (Leaf(LONG.record_id), ())
    assert found.lengths == {(16, 16): Leaf(SHORT.record_id), (64, 64): Leaf(LONG.record_id)}
    assert set(found.matches) == {SHORT.record_id, LONG.record_id}
    for batch in (1, 7):
        assert chosen(found, PrefillShape(batch, 16)) == SHORT.record_id
        for qo_len, kv_len in ((15, 16), (16, 15), (17, 16), (16, 17), (64, 16), (16, 64)):
            assert chosen(found, PrefillShape(batch, qo_len, kv_len)) == LONG.record_id


def test_a_record_that_is_nowhere_the_best_serves_nothing(tmp_path: Path) -> None:
    uniform = entry(5, "b2_q64_kv64", lens="uniform", secs=1e-4)
    filled(tmp_path, [LONG, uniform])
    swept(tmp_path, SPEC, {"2x64": {LONG.record_id: 1.0, uniform.record_id: 2.0}}, KEY)
    assert list(serving(tmp_path).matches) == [LONG.record_id]


def test_lengths_of_the_queries_and_of_the_keys_may_differ(tmp_path: Path) -> None:
    crossed = entry(5, "b1_q16_kv64")
    filled(tmp_path, [SHORT, crossed])
    swept(tmp_path, SPEC, {"1x16": {SHORT.record_id: 1.0, crossed.record_id: 2.0}}, KEY)
    found = serving(tmp_path)
    assert chosen(found, PrefillShape(3, 16, 64)) == crossed.record_id
    assert chosen(found, PrefillShape(3, 64, 16)) == SHORT.record_id
    assert [each["serves"] for each in found.as_data()["kernels"]] == [
        "qo_len = kv_len = 16", "qo_len = 16, kv_len = 64", "other lengths",
    ]  # fmt: skip


def test_the_record_without_padding_serves_its_lengths(tmp_path: Path) -> None:
    """As a look-up takes it; which is faster on other lengths is up to the sweep."""
    uniform = entry(5, "b1_q16_kv16", lens="uniform", secs=1e-4)
    fixed = entry(6, "b2_q64_kv64", lens="fixed:9", secs=9e-4)
    slower = entry(7, "b2_q64_kv64", lens="uniform", secs=9e-3)
    filled(tmp_path, [SHORT, uniform, fixed, slower])
    times = {each.record_id: 2.0 for each in (SHORT, fixed, slower)} | {uniform.record_id: 1.0}
    swept(tmp_path, SPEC, {"1x16": times, "2x64": times}, KEY)
    found = serving(tmp_path)
    assert found.tree == Leaf(uniform.record_id)
    assert found.lengths == {(16, 16): Leaf(SHORT.record_id), (64, 64): Leaf(fixed.record_id)}
    for shape, tree in ((PrefillShape(1, 16), SHORT), (PrefillShape(2, 64), fixed)):
        match = Finder([tmp_path]).find(KEY, SPEC, shape)
        assert (match.entry, chosen(found, shape)) == (tree, tree.record_id)


WIDE = entry(8, "b32_q16_kv16")


def test_of_several_batches_the_sweep_says_which_record_serves_their_lengths(
    tmp_path: Path,
) -> None:
    filled(tmp_path, [SHORT, WIDE, LONG])
    names = [each.record_id for each in (SHORT, WIDE, LONG)]
    times = {"1x16": (2.0, 3.0, 1.0), "32x16": (3.0, 2.0, 1.0), "2x64": (2.0, 2.0, 1.0)}
    swept(
        tmp_path,
        SPEC,
        {shape: dict(zip(names, each, strict=True)) for shape, each in times.items()},
        KEY,
    )
    found = serving(tmp_path)
    assert (found.tree, found.notes) == (Leaf(LONG.record_id), ())
    batches = Split("batch", 6, Leaf(SHORT.record_id), Leaf(WIDE.record_id))
    assert found.lengths == {(16, 16): batches, (64, 64): Leaf(LONG.record_id)}
    assert [(each["serves"], each["record"]) for each in found.as_data()["kernels"]] == [
        ("qo_len = kv_len = 16, batch < 6", SHORT.record_id),
        ("qo_len = kv_len = 16, batch >= 6", WIDE.record_id),
        ("qo_len = kv_len = 64", LONG.record_id),
        ("other lengths", LONG.record_id),
    ]


def test_of_several_batches_times_on_all_lengths_decide(tmp_path: Path) -> None:
    filled(tmp_path, [SHORT, WIDE])
    one, other = SHORT.record_id, WIDE.record_id
    points = (
        Point(PrefillShape(1, 16), "full", {one: 1.0, other: 2.0}),
        Point(PrefillShape(1, 16), "uniform", {one: 9.0, other: 1.0}),
    )
    sweep = Sweep(str(SPEC), 0, {"name": "test"}, "2026-11-23", {}, (one, other), points)
    write_sweep(tmp_path / str(KEY), sweep)
    found = serving(tmp_path)
    assert (found.tree, found.lengths) == (Leaf(other), {(16, 16): Leaf(other)})
    assert serving(tmp_path, lens="full").lengths == {(16, 16): Leaf(one)}
    assert serving(tmp_path, lens="uniform").lengths == {(16, 16): Leaf(other)}
    write_sweep(tmp_path / str(KEY), replace(sweep, points=points[1:]))
    assert serving(tmp_path).lengths == {(16, 16): Leaf(other)}


def test_several_batches_that_nothing_tells_apart_have_no_kernel_of_their_own(
    tmp_path: Path,
) -> None:
    filled(tmp_path, [SHORT, WIDE])
    times = {SHORT.record_id: 1.0, WIDE.record_id: 2.0}
    swept(tmp_path, SPEC, {"1x32": times}, KEY)
    found = serving(tmp_path)
    assert (found.tree, found.lengths) == (Leaf(SHORT.record_id), {})
    (note,) = found.notes
    assert note.startswith("qo_len = kv_len = 16: tuned on several batches, and the sweep")
    assert COMMAND in note
    assert [each["serves"] for each in found.as_data()["kernels"]] == ["every shape"]
    swept(tmp_path, SPEC, {"1x16": times}, KEY)
    assert (serving(tmp_path).notes, list(serving(tmp_path).lengths)) == ((), [(16, 16)])


def test_without_a_sweep_the_record_of_the_nearest_shape_serves(tmp_path: Path) -> None:
    filled(tmp_path, [SHORT, LONG])
    found = serving(tmp_path)
    assert (found.tree, found.sweep) == (TREE, None)
    assert found.lengths == {(16, 16): Leaf(SHORT.record_id), (64, 64): Leaf(LONG.record_id)}
    data = found.as_data()
    assert [(each["serves"], each["tuned_at"]) for each in data["kernels"]] == [
        ("qo_len = kv_len = 16", "b1_q16_kv16"),
        ("qo_len = kv_len = 64", "b2_q64_kv64"),
        ("other lengths, kv_len < 32", "b1_q16_kv16"),
        ("other lengths, kv_len >= 32", "b2_q64_kv64"),
    ]
    assert data["boundaries"] == {"measured_on": None, "date": None, "points": 0}
    (note,) = data["notes"]
    words = ["2 records", "tuned nearest", "a sweep would choose better", f"run: {COMMAND}"]
    assert [word for word in words if word not in note] == []


def test_a_sweep_of_records_that_are_gone_is_as_good_as_none(tmp_path: Path) -> None:
    filled(tmp_path, [SHORT, LONG])
    swept(tmp_path, SPEC, {"1x16": {"gone": 1.0}}, KEY)
    assert (serving(tmp_path).tree, serving(tmp_path).sweep) == (TREE, None)


@given(
    tuned=st.sets(st.builds(PrefillShape, *[st.integers(1, 4096)] * 3), min_size=1, max_size=6),
    data=st.data(),
)
def test_each_tuned_shape_is_served_by_its_own_record(
    tuned: set[PrefillShape], data: st.DataObject
) -> None:
    shapes = {str(number): shape for number, shape in enumerate(sorted(tuned, key=str))}
    tree = grow(nearness(shapes))
    for record, shape in shapes.items():
        assert shapes[choose(tree, Sizes.of(shape))] == shape, record
    # And of two that differ in one size, the nearer one serves what lies between them.
    one = data.draw(st.sampled_from(sorted(tuned, key=str)))
    two = PrefillShape(one.batch, one.qo_len, one.num_kv * 8)
    between = grow(nearness({"one": one, "two": two}))
    for factor, nearer in ((2, "one"), (4, "two"), (16, "two")):
        shape = PrefillShape(one.batch, one.qo_len, one.num_kv * factor)
        assert choose(between, Sizes.of(shape)) == nearer


def test_without_a_sweep_the_nearest_batch_serves_lengths_of_several(tmp_path: Path) -> None:
    filled(tmp_path, [SHORT, WIDE, LONG])
    batches = Split("batch", 6, Leaf(SHORT.record_id), Leaf(WIDE.record_id))
    found = serving(tmp_path)
    assert found.lengths == {(16, 16): batches, (64, 64): Leaf(LONG.record_id)}
    assert found.tree == Split("kv_len", 32, batches, Leaf(LONG.record_id))


UNIFORM = entry(9, "b1_q16_kv16", lens="uniform", secs=1e-4)


def test_of_several_distributions_the_record_that_loses_least_over_them_serves(
    tmp_path: Path,
) -> None:
    """Full lengths lose 50 % where others lose 10 %: in the mean of both these are better."""
    filled(tmp_path, [SHORT, UNIFORM, LONG])
    full, uniform, other = (each.record_id for each in (SHORT, UNIFORM, LONG))
    shape = PrefillShape(1, 16)
    points = (
        Point(shape, "full", {full: 1.0, uniform: 1.1, other: 9.0}),
        Point(shape, "uniform", {full: 1.5, uniform: 1.0, other: 9.0}),
        Point(PrefillShape(2, 64), "full", {full: 9.0, uniform: 9.0, other: 1.0}),
    )
    records = (full, uniform, other)
    sweep = Sweep(str(SPEC), 0, {"name": "test"}, "2026-11-23", {}, records, points)
    write_sweep(tmp_path / str(KEY), sweep)
    found = serving(tmp_path)
    assert found.lengths == {(16, 16): Leaf(uniform), (64, 64): Leaf(other)}
    assert found.as_data()["distributions"] == [
        {
            "shape": "b1_q16_kv16",
            "record": uniform,
            "lens": "uniform",
            "among": ["full", "uniform"],
            "why": "where all were timed on full and uniform, it loses 4.9% in the mean, 22.5% "
            "that of full",
        }
    ]
    for lens, record in (("full", full), ("uniform", uniform), ("uniform:0.125-1", uniform)):
        chosen_for = serving(tmp_path, lens=lens)
        assert chosen_for.lengths[16, 16] == Leaf(record), lens
        (choice,) = chosen_for.as_data()["distributions"]
        assert choice["why"] == f"{lens} is asked for"
        match, kernel = choose_kernel(SPEC, shape, CPU, Finder([tmp_path]), lens=lens)
        assert (match.entry.record_id, kernel.record) == (record, record)
    match, _ = choose_kernel(SPEC, shape, CPU, Finder([tmp_path]))
    assert match.entry.record_id == uniform


def test_the_boundaries_are_those_of_the_distribution_that_is_asked_for(tmp_path: Path) -> None:
    filled(tmp_path, [SHORT, LONG])
    one, other = SHORT.record_id, LONG.record_id
    points = (
        Point(PrefillShape(1, 32), "full", {one: 1.0, other: 2.0}),
        Point(PrefillShape(1, 32), "uniform:0.125-1", {one: 9.0, other: 1.0}),
    )
    sweep = Sweep(str(SPEC), 0, {"name": "test"}, "2026-11-23", {}, (one, other), points)
    write_sweep(tmp_path / str(KEY), sweep)
    trees = {lens: serving(tmp_path, lens=lens).tree for lens in ("", "full", "uniform", "fixed:9")}
    assert trees == {
        "": Leaf(other), "full": Leaf(one), "uniform": Leaf(other), "fixed:9": Leaf(other),
    }  # fmt: skip


def test_without_times_on_both_the_record_without_padding_serves_and_it_is_said(
    tmp_path: Path,
) -> None:
    filled(tmp_path, [SHORT, UNIFORM])
    found = serving(tmp_path)
    assert (found.tree, len(found.notes)) == (Leaf(SHORT.record_id), 1)
    (choice,) = found.as_data()["distributions"]
    assert (choice["lens"], choice["why"]) == (
        "full", "nothing was measured that says how the records do on the lengths of the others"
    )  # fmt: skip
    found = serving(tmp_path, lens="uniform")
    assert found.tree == Leaf(UNIFORM.record_id)
    (choice,) = serving(tmp_path, lens="fixed:9").as_data()["distributions"]
    assert (choice["lens"], choice["why"][:22]) == ("full", "none is of fixed:9; no")


def test_records_of_one_schedule_tell_how_it_does_on_several_distributions(tmp_path: Path) -> None:
    """What a search kept besides the best says how the best of other lengths do on these."""
    best, second = entry(20, "b1_q16_kv16", secs=1.0e-3), entry(21, "b1_q16_kv16", secs=1.1e-3)
    mixed = [
        replace(
            each,
            record_id=record_id("0", each.trace, "uniform"),
            run_secs=(secs,),
            provenance=replace(each.provenance, lens="uniform", median_secs=secs),
        )
        for each, secs in ((best, 2e-3), (second, 1e-3))
    ]
    filled(tmp_path, [best, second, *mixed])
    (choice,) = serving(tmp_path).as_data()["distributions"]
    assert choice["lens"] == "uniform"
    assert "on full and uniform, it loses 4.9% in the mean, 41.4% that of full" in choice["why"]


def test_records_that_came_after_the_sweep_serve_their_lengths_at_most_and_are_named(
    tmp_path: Path,
) -> None:
    new, wide = entry(4, "b4_q32_kv32"), WIDE
    filled(tmp_path, [SHORT, LONG, new, wide])
    swept(tmp_path, SPEC, TIMES, KEY)
    found = serving(tmp_path)
    assert found.tree == TREE
    assert found.lengths == {
        (16, 16): Leaf(SHORT.record_id),
        (32, 32): Leaf(new.record_id),
        (64, 64): Leaf(LONG.record_id),
    }
    (note,) = found.notes
    late = "came after the sweep of 2026-11-23 and serves"
    assert note.startswith(
        f"{new.record_id} {late} no lengths but those that were tuned; "
        f"{wide.record_id} {late} nothing; run:"
    )
    assert note.count(COMMAND) == 1
    assert found.as_data()["notes"] == [*found.notes]


def test_a_faster_record_of_a_shape_leaves_the_boundaries_alone(tmp_path: Path) -> None:
    faster = entry(8, "b1_q16_kv16", secs=1e-6)
    filled(tmp_path, [SHORT, LONG, faster])
    swept(tmp_path, SPEC, TIMES, KEY)
    found = serving(tmp_path)
    assert found.tree == TREE
    assert found.lengths == {(16, 16): Leaf(faster.record_id), (64, 64): Leaf(LONG.record_id)}
    assert set(found.matches) == {SHORT.record_id, LONG.record_id, faster.record_id}
    (note,) = found.notes
    assert note.startswith(f"{faster.record_id} came after the sweep")


def test_what_a_sweep_timed_is_not_pruned(tmp_path: Path) -> None:
    faster = entry(8, "b1_q16_kv16", secs=1e-6)
    store = filled(tmp_path, [SHORT, LONG, faster])
    file = swept(tmp_path, SPEC, TIMES, KEY)
    prune = ("db", "prune", "--keep", 1, "--database", tmp_path)
    assert "removed 0 records" in said(*prune).out
    assert serving(tmp_path).tree == TREE
    file.write_text("{")
    assert swept_records(store.folder) == frozenset()
    assert "removed 1 record" in said(*prune).out
    assert set(Finder([tmp_path]).by_id(KEY, [faster.record_id, SHORT.record_id])) == {
        faster.record_id
    }


def test_a_record_that_is_gone_since_the_sweep_is_named(tmp_path: Path) -> None:
    filled(tmp_path, [SHORT])
    single = {shape: {SHORT.record_id: 3.0, "gone": 1.0} for shape in TIMES}
    swept(tmp_path, SPEC, single, KEY)
    assert serving(tmp_path).notes == ()  # one is left, which needs no sweep
    filled(tmp_path, [LONG])
    times = {shape: {**each, "gone": 0.1} for shape, each in TIMES.items()}
    swept(tmp_path, SPEC, times, KEY)
    found = serving(tmp_path)
    assert found.tree == TREE
    (note,) = found.notes
    assert note.startswith("gone of the sweep of 2026-11-23")
    assert COMMAND in note


def test_the_stock_rules_serve_nothing(tmp_path: Path) -> None:
    filled(tmp_path, [STOCK])
    with pytest.raises(NoRecordError, match="no record that fits any shape"):
        serving(tmp_path)
    filled(tmp_path, [SHORT])
    assert serving(tmp_path).tree == Leaf(SHORT.record_id)


def test_the_stock_rules_serve_no_other_dtype(tmp_path: Path) -> None:
    """Not even in the shape that they were tuned on, where theirs is the fastest record."""
    filled(tmp_path, [STOCK])
    finder, half = Finder([tmp_path]), SPEC.in_dtype("float16")
    shape = PrefillShape.parse(STOCK.provenance.shape)
    assert choose_kernel(SPEC, shape, CPU, finder)[0].entry == STOCK
    with pytest.raises(NoRecordError):
        choose_kernel(half, shape, CPU, finder)
    filled(tmp_path, [SHORT])
    assert choose_kernel(half, shape, CPU, Finder([tmp_path]))[0].entry == SHORT


def test_records_of_an_unknown_space_are_named(tmp_path: Path) -> None:
    unknown = entry(4, "b4_q128_kv128", "llvm_other")
    filled(tmp_path, [unknown])
    with pytest.raises(NoRecordError, match="records of llvm_other serve nothing"):
        serving(tmp_path)
    filled(tmp_path, [SHORT])
    found = serving(tmp_path)
    assert set(found.matches) == {SHORT.record_id}
    (note,) = found.notes
    assert note.startswith("records of llvm_other serve nothing")


def test_a_sweep_of_other_records_gives_way_to_a_later_databases(tmp_path: Path) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    filled(theirs, [SHORT, LONG])
    swept(theirs, SPEC, TIMES, KEY)
    swept(mine, SPEC, {"1x16": {"0" * 16: 1.0}}, KEY)
    found = choose_serving(SPEC, CPU, Finder([mine, theirs]))
    assert found.tree == TREE


def test_the_fastest_record_of_each_shape_and_distribution_is_a_candidate(tmp_path: Path) -> None:
    slower, other_lens = entry(5, "b1_q16_kv16", secs=4e-3), entry(6, "b1_q16_kv16", lens="uniform")
    filled(tmp_path, [SHORT, slower, STOCK, other_lens, LONG])
    found = candidates(Finder([tmp_path]), [KEY], SPEC)
    assert set(found) == {SHORT.record_id, other_lens.record_id, LONG.record_id}
    assert all(record == match.entry.record_id for record, match in found.items())


def test_the_earlier_database_has_the_say(tmp_path: Path) -> None:
    own, committed = tmp_path / "own", tmp_path / "committed"
    for root in (own, committed):
        filled(root, [SHORT, LONG])
    swept(committed, SPEC, TIMES, KEY, date="2026-01-01")
    roots = [own, committed]
    sweep = choose_serving(SPEC, CPU, Finder(roots)).sweep
    assert sweep is not None
    assert sweep.date == "2026-01-01"
    swept(own, SPEC, TIMES, KEY)
    sweep = choose_serving(SPEC, CPU, Finder(roots)).sweep
    assert sweep is not None
    assert sweep.date == "2026-11-23"


def test_no_record_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    root = tmp_path / "database"
    for on_missing in ("error", "nearest", "baseline"):
        with pytest.raises(NoRecordError) as caught:
            serving(root, on_missing=on_missing)
        words = [str(SPEC), "llvm-znver4-2c", str(root), "prefilltune tune"]
        assert [word for word in words if word not in str(caught.value)] == []
    assert f"TVM has no prefill kernel for {SPEC} on llvm to fall back to" in str(caught.value)
    assert not root.exists()


def test_an_unknown_answer_to_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match="'ignore'; choose error, nearest, baseline"):
        serving(tmp_path, on_missing="ignore")


WGMMA = entry(7, "b8_q128_kv128", "cuda_wgmma")


def test_records_of_another_device_serve_where_they_are_asked_for(tmp_path: Path) -> None:
    filled(tmp_path, [WGMMA], H100)
    with pytest.raises(NoRecordError) as caught:
        serving(tmp_path, gpu(H200))
    assert "take those of cuda-sm_90a-h100 with on_missing='nearest'" in str(caught.value)
    assert "on_missing='baseline'" in str(caught.value)
    found = serving(tmp_path, gpu(H200), on_missing="nearest")
    assert (found.key, found.tree) == (H200, Leaf(WGMMA.record_id))
    assert found.lengths == {(128, 128): Leaf(WGMMA.record_id)}
    for described in found.as_data()["kernels"]:
        assert (described["tier"], described["tuned_for"]) == ("family", "cuda-sm_90a-h100")


def test_own_records_and_those_of_another_device_serve_side_by_side(tmp_path: Path) -> None:
    filled(tmp_path, [WGMMA], H100)
    own = entry(8, "b1_q256_kv256", "cuda_wgmma")
    filled(tmp_path, [own], H200)
    found = serving(tmp_path, gpu(H200), on_missing="nearest")
    assert found.lengths == {(128, 128): Leaf(WGMMA.record_id), (256, 256): Leaf(own.record_id)}
    origins = {record: (match.tier, match.key) for record, match in found.matches.items()}
    assert origins == {
        WGMMA.record_id: (Tier.FAMILY, H100), own.record_id: (Tier.EXACT, H200),
    }  # fmt: skip
    described = {each["record"]: each["tuned_for"] for each in found.as_data()["kernels"]}
    assert described == {WGMMA.record_id: str(H100), own.record_id: str(H200)}
    nearest, elsewhere = found.notes
    assert "of 2 records is best where" in nearest
    assert "run: prefilltune sweep --target cuda" in nearest  # here, where both are at hand
    assert f"family: records of {H100}, timed on test; for records of its own run" in elsewhere
    assert "8x128" in elsewhere
    assert "1x256" not in elsewhere
    alone = serving(tmp_path, gpu(H200))
    assert (alone.tree, set(alone.matches)) == (Leaf(own.record_id), {own.record_id})


FAR = entry(9, "b1_q512_kv512", "cuda_wgmma")
SWEPT = {
    "8x128": {WGMMA.record_id: 1.0, FAR.record_id: 2.0},
    "1x512": {WGMMA.record_id: 2.0, FAR.record_id: 1.0},
}


def test_an_own_record_beside_another_devices_sweep_serves_its_lengths_alone(
    tmp_path: Path,
) -> None:
    """What other lengths are served by stays as it was without it."""
    filled(tmp_path, [WGMMA, FAR], H100)
    swept(tmp_path, SPEC, SWEPT, H100)
    before = serving(tmp_path, gpu(H200), on_missing="nearest")
    assert before.tree == Split("kv_len", 256, Leaf(WGMMA.record_id), Leaf(FAR.record_id))
    same, other = entry(20, "b8_q128_kv128", "cuda_wgmma"), entry(21, "b4_q64_kv64", "cuda_wgmma")
    filled(tmp_path, [same, other], H200)
    found = serving(tmp_path, gpu(H200), on_missing="nearest")
    assert (found.tree, found.sweep) == (before.tree, before.sweep)
    assert found.lengths == {
        (64, 64): Leaf(other.record_id),
        (128, 128): Leaf(same.record_id),
        (512, 512): Leaf(FAR.record_id),
    }
    untimed, elsewhere = found.notes
    names = ", ".join(sorted([same.record_id, other.record_id]))
    assert untimed.startswith(
        f"{names} of {H200} were not timed by the sweep of 2026-11-23 on {H100} and serve no "
        "lengths but those that were tuned; run: prefilltune sweep --target cuda"
    )
    assert "1x512" in elsewhere
    assert "8x128" not in elsewhere  # of which there is a record of its own
    assert {each["tuned_for"] for each in found.as_data()["kernels"]} == {str(H100), str(H200)}


def test_an_own_record_takes_the_place_of_another_devices_among_several_batches(
    tmp_path: Path,
) -> None:
    """Its batch is not left to the record of another one, which alone was timed."""
    one, many = entry(30, "b1_q128_kv128", "cuda_wgmma"), entry(31, "b32_q128_kv128", "cuda_wgmma")
    filled(tmp_path, [one, many], H100)
    times = {
        "1x128": {one.record_id: 1.0, many.record_id: 2.0},
        "32x128": {one.record_id: 2.0, many.record_id: 1.0},
    }
    swept(tmp_path, SPEC, times, H100)
    own = entry(32, "b1_q128_kv128", "cuda_wgmma")
    filled(tmp_path, [own], H200)
    found = serving(tmp_path, gpu(H200), on_missing="nearest")
    batches = Split("batch", 6, Leaf(own.record_id), Leaf(many.record_id))
    assert found.lengths == {(128, 128): batches}
    assert found.tree == Split("batch", 6, Leaf(one.record_id), Leaf(many.record_id))


def test_an_own_record_takes_the_place_of_another_devices_among_distributions(
    tmp_path: Path,
) -> None:
    """That of full lengths does not serve because the own one was not timed beside it."""
    full, mixed, own = (
        entry(number, "b8_q128_kv128", "cuda_wgmma", lens=lens)
        for number, lens in ((33, "full"), (34, "uniform"), (35, "uniform"))
    )
    filled(tmp_path, [full, mixed], H100)
    times = {full.record_id: 1.0, mixed.record_id: 1.1}
    worse = {full.record_id: 2.0, mixed.record_id: 1.0}
    swept(tmp_path, SPEC, {"8x128": times, "8x128 uniform": worse}, H100)
    for record in (mixed, own):
        if record is own:
            filled(tmp_path, [own], H200)
        found = serving(tmp_path, gpu(H200), on_missing="nearest")
        assert found.lengths == {(128, 128): Leaf(record.record_id)}
        shape, finder = PrefillShape(8, 128), Finder([tmp_path])
        match, _ = choose_kernel(SPEC, shape, gpu(H200), finder, accept=Tier.FAMILY)
        assert match.entry == record


def test_an_own_sweep_of_own_records_and_another_devices_wins(tmp_path: Path) -> None:
    filled(tmp_path, [WGMMA, FAR], H100)
    swept(tmp_path, SPEC, SWEPT, H100)
    own, idle = entry(20, "b4_q64_kv64", "cuda_wgmma"), entry(21, "b2_q32_kv32", "cuda_wgmma")
    filled(tmp_path, [own, idle], H200)
    names = [each.record_id for each in (WGMMA, FAR, own, idle)]
    assert set(candidates(Finder([tmp_path]), [H200, H100], SPEC)) == set(names)
    times = {
        "4x64": dict(zip(names, (2.0, 3.0, 1.0, 4.0), strict=True)),
        "1x512": dict(zip(names, (2.0, 1.0, 3.0, 4.0), strict=True)),
    }
    swept(tmp_path, SPEC, times, H200)
    found = serving(tmp_path, gpu(H200), on_missing="nearest")
    assert found.sweep is not None
    assert set(found.sweep.records) == set(names)
    assert found.tree == Split("kv_len", 181, Leaf(own.record_id), Leaf(FAR.record_id))
    (elsewhere,) = found.notes
    assert f"family: records of {H100}" in elsewhere
    # And who accepts no other device is told that the sweep gave some shapes to one.
    alone = serving(tmp_path, gpu(H200))
    assert set(alone.matches) == {own.record_id, idle.record_id}
    (note,) = alone.notes
    assert note.startswith(f"{WGMMA.record_id}, {FAR.record_id} of the sweep of 2026-11-23 are")
    assert "of a device whose records are not accepted" in note


def test_of_one_shape_and_distribution_the_own_record_is_the_candidate(tmp_path: Path) -> None:
    """However fast the other device's is there: times of two devices do not compare."""
    theirs = [
        entry(number, "b8_q128_kv128", "cuda_wgmma", secs=1e-6, lens=lens)
        for number, lens in ((40, "full"), (41, "uniform"))
    ]
    own = entry(42, "b8_q128_kv128", "cuda_wgmma")
    filled(tmp_path, theirs, H100)
    filled(tmp_path, [own], H200)
    finder, shape = Finder([tmp_path]), PrefillShape(8, 128)
    both = {own.record_id, theirs[1].record_id}
    assert set(candidates(finder, [H200, H100], SPEC)) == both
    for lens, record, key in (("full", own, H200), ("uniform", theirs[1], H100)):
        match, choice = choose_kernel(SPEC, shape, gpu(H200), finder, accept=Tier.FAMILY, lens=lens)
        assert (match.entry, match.key, choice.record) == (record, key, record.record_id)
    match, _ = choose_kernel(SPEC, shape, gpu(H200), finder, lens="uniform")
    assert (match.entry, match.tier) == (own, Tier.EXACT)


def test_an_own_record_of_another_spec_stands_behind_another_devices(tmp_path: Path) -> None:
    untouched = replace(SPEC, padding_output="untouched")
    own = entry(50, "b8_q128_kv128", "cuda_wgmma")
    filled(tmp_path, [own], H200)
    assert set(candidates(Finder([tmp_path]), [H200, H100], untouched)) == {own.record_id}
    theirs = entry(51, "b8_q128_kv128", "cuda_wgmma", spec=str(untouched))
    filled(tmp_path, [theirs], H100)
    finder = Finder([tmp_path])
    assert set(candidates(finder, [H200, H100], untouched)) == {theirs.record_id}
    shape, accept = PrefillShape(8, 128), Tier.FAMILY
    match, _ = choose_kernel(untouched, shape, gpu(H200), finder, accept=accept)
    assert (match.entry, match.key) == (theirs, H100)


def test_a_kernel_for_one_shape_is_made_of_the_familys_record_of_a_nearer_shape(
    tmp_path: Path,
) -> None:
    filled(tmp_path, [WGMMA], H100)
    own = entry(8, "b1_q1024_kv1024", "cuda_wgmma")
    filled(tmp_path, [own], H200)
    finder = Finder([tmp_path])
    for shape, record in ((PrefillShape(8, 128), WGMMA), (PrefillShape(8, 160), WGMMA),
                          (PrefillShape(1, 900), own)):  # fmt: skip
        match, _ = choose_kernel(SPEC, shape, gpu(H200), finder, accept=Tier.PORTABLE)
        assert match.entry == record, shape


def test_another_devices_records_that_cannot_be_read_are_named_beside_own_ones(
    tmp_path: Path,
) -> None:
    edit_provenance(filled(tmp_path, [WGMMA], H100), tvm="0.26.0")
    own = entry(8, "b1_q128_kv128", "cuda_wgmma")
    filled(tmp_path, [own], H200)
    found = serving(tmp_path, gpu(H200), on_missing="nearest")
    assert found.tree == Leaf(own.record_id)
    (note,) = found.notes
    assert note.startswith("skipped: ")
    assert "0.26.0" in note


def test_what_the_sweep_of_another_device_timed_is_not_pruned(tmp_path: Path) -> None:
    faster = entry(10, "b8_q128_kv128", "cuda_wgmma", secs=1e-6)
    folder = filled(tmp_path, [WGMMA, FAR, faster], H100).folder
    swept(tmp_path, SPEC, SWEPT, H200)
    assert swept_records(folder) == {WGMMA.record_id, FAR.record_id}


def test_an_architecture_takes_the_records_and_the_sweep_of_a_device(tmp_path: Path) -> None:
    other = entry(8, "b1_q512_kv512", "cuda_wgmma")
    filled(tmp_path, [WGMMA, other], H100)
    (note,) = serving(tmp_path, gpu(ANY)).notes
    assert "run, on a machine of cuda-sm_90a-h100: prefilltune sweep --target cuda --heads" in note
    times = {
        "8x128": {WGMMA.record_id: 1.0, other.record_id: 2.0},
        "1x512": {WGMMA.record_id: 2.0, other.record_id: 1.0},
    }
    swept(tmp_path, SPEC, times, H100)
    found = serving(tmp_path, gpu(ANY))
    assert found.tree == Split("kv_len", 256, Leaf(WGMMA.record_id), Leaf(other.record_id))
    assert {match.tier for match in found.matches.values()} == {Tier.FAMILY}


@pytest.mark.parametrize(
    ("dtype", "layout", "otherwise"),
    [
        ("float16", "padded", ""),
        ("bfloat16", "padded", " in float16"),
        ("bfloat16", "packed", " in float16 of padded batches"),
    ],
)
def test_an_architecture_alone_takes_records_of_another_dtype_or_layout_and_it_is_said(
    tmp_path: Path, dtype: str, layout: str, otherwise: str
) -> None:
    half = replace(SPEC, dtype="float16")
    filled(tmp_path, [entry(7, "b8_q128_kv128", "cuda_wgmma", spec=str(half))], H100)
    spec = replace(half, dtype=dtype).as_called(layout=layout)
    found = choose_serving(spec, gpu(ANY), Finder([tmp_path]))
    said = f"{spec}: family: records of cuda-sm_90a-h100{otherwise}, timed on"
    assert [note[: len(said)] for note in found.notes] == ([said] if otherwise else [])


def test_what_holds_for_several_shapes_is_said_once(tmp_path: Path) -> None:
    full = [entry(40 + number, f"b1_q{16 * number}_kv{16 * number}") for number in (1, 2, 3)]
    mixed = [
        entry(50 + number, each.provenance.shape, lens="uniform")
        for number, each in enumerate(full)
    ]
    filled(tmp_path, full + mixed)
    chosen, _ = explanation_lines([serving(tmp_path).as_data()])
    assert chosen == (
        "b1_q16_kv16, b1_q32_kv32, b1_q48_kv48, tuned on full and uniform: the record of full "
        "serves, nothing was measured that says how the records do on the lengths of the others"
    )


def test_an_architecture_without_its_suffix(tmp_path: Path) -> None:
    with pytest.raises(NoRecordError, match="name the target's arch sm_90a"):
        serving(tmp_path, gpu(TargetKey("cuda", "sm_90")))


def test_the_baseline_serves_on_a_gpu_where_it_is_asked_for(tmp_path: Path) -> None:
    found = serving(tmp_path, gpu(H100), on_missing="baseline")
    assert (found.tree, found.choose(Sizes(1, 1, 1))) == (None, None)
    (note,) = found.notes
    assert "TVM's hand-written kernel" in note
    assert "prefilltune tune" in note
    data = found.as_data()
    assert data["kernels"] == [{"serves": "every shape", "record": None, "tier": "baseline"}]
    filled(tmp_path, [WGMMA], H100)
    assert serving(tmp_path, gpu(H100), on_missing="baseline").tree == Leaf(WGMMA.record_id)


def test_records_of_another_tvm_are_refused(tmp_path: Path) -> None:
    edit_provenance(filled(tmp_path, [WGMMA], H100), tvm="0.26.0")
    with pytest.raises(VersionMismatchError, match=r"0\.26\.0"):
        serving(tmp_path, gpu(H100), on_missing="baseline")
    with pytest.raises(VersionMismatchError, match=r"0\.26\.0"):
        serving(tmp_path, gpu(H200), on_missing="nearest")
    with pytest.raises(NoRecordError, match="on cuda-sm_90a-h200"):  # which were not asked for
        serving(tmp_path, gpu(H200))
