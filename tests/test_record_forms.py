"""A record holds the description that all shapes share; earlier ones hold that of their shape."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import dispatch_fixtures as fixtures
import pytest
import tvm
from command_line import said
from database_fixtures import filled
from dispatch_fixtures import LONG, SHORT, SPEC, record, target
from test_comparison import CASE
from tvm.s_tir import meta_schedule as ms

from prefilltune.database import (
    Entry,
    Finder,
    RecordStore,
    StaleRecordError,
    entry_from,
    judge,
    merge,
)
from prefilltune.tuning.building.describing import describe, describe_for_every_shape
from prefilltune.tuning.building.rebuilding import records_of_today
from prefilltune.tuning.building.replaying import record_of_today, replay_record
from prefilltune.tuning.comparing.comparison import write_comparisons
from prefilltune.tuning.deployment import Sizes, choose_serving, read_sweeps
from prefilltune.workloads import PrefillShape, SymbolicShape

KEY = target().key
SIZED = [
    replace(each, provenance=replace(each.provenance, spread_secs=0.0))
    for each in (record(SPEC, shape, sized=True) for shape in (SHORT, LONG))
]
#: One trace, the best for two shapes.
SHARED = [record_of_today(each) for each in SIZED]
SHARED[1] = record_of_today(replace(SIZED[1], trace=SIZED[0].trace))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.*"))}


def open_store(root: Path) -> RecordStore:
    store = RecordStore.open(root, KEY)
    assert not store.problems
    return store


def by_id(entries: list[Entry]) -> dict[str, Entry]:
    return {entry.record_id: entry for entry in entries}


def test_shapes_share_a_description_and_keep_their_records(tmp_path: Path) -> None:
    one, other = SHARED
    assert one.workload_line == other.workload_line
    assert one.trace == other.trace
    assert one.record_id != other.record_id
    store = filled(tmp_path, SHARED, KEY)
    assert len((store.folder / "workloads.json").read_bytes().splitlines()) == 1
    assert by_id(open_store(tmp_path).entries) == by_id(SHARED)
    faster = replace(one, run_secs=(1e-3,), provenance=replace(one.provenance, median_secs=1e-3))
    store.add([faster])
    assert by_id(open_store(tmp_path).entries) == by_id([faster, other])


def test_their_lines_are_found_however_they_are_written(tmp_path: Path) -> None:
    path = filled(tmp_path, SHARED, KEY).folder / "records.json"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in reversed(lines)))
    assert by_id(open_store(tmp_path).entries) == by_id(SHARED)


def test_two_lengths_of_one_shape_are_told_apart(tmp_path: Path) -> None:
    provenance = replace(SIZED[0].provenance, lens="uniform", median_secs=1e-3)
    uniform = record_of_today(replace(SIZED[0], run_secs=(1e-3,), provenance=provenance))
    filled(tmp_path, [*SHARED, uniform], KEY)
    assert by_id(open_store(tmp_path).entries) == by_id([*SHARED, uniform])


def test_tvm_itself_opens_and_replays_them(tmp_path: Path) -> None:
    store = filled(tmp_path, SHARED, KEY)
    database = ms.database.JSONDatabase(
        str(store.folder / "workloads.json"), str(store.folder / "records.json"),
        allow_missing=False,
    )  # fmt: skip
    found = database.get_all_tuning_records()
    assert len(found) == 2
    assert {str(each.args_info[0].shape) for each in found} == {"(1, 16, 2, 16)", "(2, 64, 2, 16)"}
    provenance = SHARED[0].provenance
    symbolic = describe_for_every_shape(provenance.space, SPEC, provenance.variant)
    schedule = database.query_schedule(symbolic, target().target, "main")
    assert schedule is not None
    # A number in the place of a size would make it a kernel of one shape.
    assert [str(size) for size in schedule.mod["main"].params[0].shape[:2]] == [
        "batch_size", "qo_len",
    ]  # fmt: skip


def test_a_judge_replays_them() -> None:
    assert judge(SHARED) == {}


def test_a_record_of_either_form_makes_the_same_kernels() -> None:
    for old in SIZED:
        new = record_of_today(old)
        for sizes in (None, SymbolicShape(3, 5, 7)):
            tvm.ir.assert_structural_equal(replay_record(old, sizes), replay_record(new, sizes))


def test_a_shape_that_was_not_measured_is_refused() -> None:
    entry = SHARED[0]
    forged = replace(entry, provenance=replace(entry.provenance, shape=str(LONG)))
    with pytest.raises(StaleRecordError, match="another description"):
        replay_record(forged)


def test_a_record_of_another_description_is_none_of_today() -> None:
    stale = replace(
        SIZED[0],
        provenance=replace(
            SIZED[0].provenance, variant={**SIZED[0].provenance.variant, "q_tile": 32}
        ),
    )
    hostile = replace(SIZED[0], trace=[[["NoSuch", [], [], []]], []])
    assert records_of_today([(KEY, each) for each in (stale, hostile, SIZED[1])]) == [
        None, None, record_of_today(SIZED[1]),
    ]  # fmt: skip


def test_old_lines_stay_as_they_are_beside_new_ones(tmp_path: Path) -> None:
    store = filled(tmp_path, SIZED, KEY)
    before = contents(store.folder)
    store.add(SHARED)
    after = contents(store.folder)
    for name in ("workloads.json", "records.json"):
        assert after[name].startswith(before[name])
    assert by_id(open_store(tmp_path).entries) == by_id([*SIZED, *SHARED])
    store.prune(1)
    assert {each.provenance.shape for each in open_store(tmp_path).entries} == {
        str(SHORT), str(LONG),
    }  # fmt: skip


def test_old_and_new_lines_merge(tmp_path: Path) -> None:
    filled(tmp_path / "old", SIZED, KEY)
    filled(tmp_path / "new", SHARED, KEY)
    (done,) = merge([tmp_path / "old", tmp_path / "new"], tmp_path / "both")
    assert not done.refused
    assert by_id(open_store(tmp_path / "both").entries) == by_id([*SIZED, *SHARED])


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A database of the form of old, with a sweep and a comparison."""
    root = fixtures.database(tmp_path / "old", *SIZED)
    one, other = (each.record_id for each in SIZED)
    times = {"1x16": {one: 1.0, other: 2.0}, "2x64": {one: 2.0, other: 1.0}}
    folder = fixtures.swept(root, SPEC, times).parent
    case = replace(CASE, spec=str(SPEC), target=folder.name, record=one)
    write_comparisons(folder / "comparison.json", [case])
    return root


def test_a_folder_of_the_form_of_old_serves(old: Path) -> None:
    found = choose_serving(SPEC, target(), Finder([old]))
    assert set(found.matches) == {each.record_id for each in SIZED}
    for match in found.matches.values():
        assert "main" in replay_record(match.entry, SymbolicShape.fresh())


def test_it_migrates_without_a_measurement(old: Path, tmp_path: Path) -> None:
    folder, new = old / str(KEY), tmp_path / "new"
    before = contents(folder)
    done = said("db", "migrate", old, "--database", new, "--json")
    assert done.code == 0, done.err
    data = json.loads(done.out)
    wanted = {each.record_id: record_of_today(each) for each in SIZED}
    assert {each["before"]: each["record"] for each in data["rewritten"]} == {
        id_: entry.record_id for id_, entry in wanted.items()
    }
    assert data["moved"] == data["left"] == data["bad_lines"] == []
    assert contents(folder) == before
    assert by_id(open_store(new).entries) == by_id([*wanted.values()])
    (sweep,) = read_sweeps(new / str(KEY)).values()
    assert {*sweep.records} == {each.record_id for each in wanted.values()}
    comparison = json.loads((new / str(KEY) / "comparison.json").read_text())
    assert [each["record"] for each in comparison["cases"]] == [
        wanted[SIZED[0].record_id].record_id
    ]
    served = [choose_serving(SPEC, target(), Finder([root])) for root in (old, new)]
    shapes = [PrefillShape(batch, length) for batch in (1, 3) for length in (16, 40, 64)]
    tuned_at = [
        [
            match.entry.provenance.shape
            for shape in shapes
            if (match := each.choose(Sizes.of(shape)))
        ]
        for each in served
    ]
    assert tuned_at[0] == tuned_at[1]
    assert len(tuned_at[0]) == len(shapes)
    assert said("db", "migrate", new, "--database", tmp_path / "again").code == 0
    assert contents(tmp_path / "again" / str(KEY)) == contents(new / str(KEY))


@pytest.mark.slow
def test_what_changed_is_measured_anew_and_the_rest_is_not(tmp_path: Path) -> None:
    other = {**SIZED[0].provenance.variant, "q_tile": 32}
    description = describe(SIZED[0].provenance.space, SPEC, SHORT, other)
    schedule = tvm.s_tir.Schedule(description)
    tvm.s_tir.schedule.Trace.apply_json_to_schedule(SIZED[0].trace, schedule)
    # It says that it is of another variant than its description.
    changed = entry_from(description, schedule.trace, [2e-3], target().target, SIZED[0].provenance)
    fixtures.database(tmp_path / "old", changed, SIZED[1])
    done = said("db", "migrate", tmp_path / "old", "--database", tmp_path / "new", "--json")
    data = json.loads(done.out)
    assert [each["before"] for each in data["rewritten"]] == [SIZED[1].record_id]
    assert [each["record"] for each in data["moved"]] == [changed.record_id]
    times = {each.provenance.shape: each.run_secs for each in open_store(tmp_path / "new").entries}
    assert times[str(LONG)] == SIZED[1].run_secs
    assert times[str(SHORT)] != changed.run_secs
