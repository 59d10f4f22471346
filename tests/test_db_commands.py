"""``prefilltune db`` as a user runs it."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import signal
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from database_fixtures import (
    KEY,
    PROVENANCE,
    SPEC_TEXT,
    edit_provenance,
    filled,
    real_entry,
    small_entry,
    trace_of,
)
from tvm.s_tir import Schedule

from prefilltune.database import RecordStore, TargetKey, entry_from, record_id, target_keys
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.build import build_library
from prefilltune.tuning.building.describing import describe_for_every_shape
from prefilltune.tuning.building.rebuilding import Rebuilt
from prefilltune.tuning.cli import main
from prefilltune.tuning.measuring.cpu import tvm_environment
from prefilltune.tuning.measuring.worker import Worker
from prefilltune.tuning.search.remeasuring import _remeasure
from prefilltune.tuning.search.state import Limit
from prefilltune.tuning.search.tune import tune_case
from prefilltune.tuning.spaces import SPACES, llvm_fused
from prefilltune.workloads import Case, PrefillShape, PrefillSpec, parse_lengths, plain_attention

SPEC = PrefillSpec(2, 1, 16, "float32")
FOREIGN_KEY = TargetKey("llvm", "skylake-avx512", "48c")
ENTRIES = [
    small_entry(1, workload=1, secs=1e-3),
    small_entry(2, workload=2, secs=2e-3),
    small_entry(3, workload=0, secs=3e-3, shape="b4_q64_kv64"),
]


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments: object) -> Done:
    """Run the command line in this process: importing it takes longer than most commands."""
    out, error = io.StringIO(), io.StringIO()
    before = signal.getsignal(signal.SIGTERM)
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(error),
    ):
        patch.setattr(sys, "argv", ["prefilltune", "db", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            signal.signal(signal.SIGTERM, before)
    return Done(code, out.getvalue(), error.getvalue())


def run_json(*arguments: object, code: int = 0) -> Any:
    done = run(*arguments, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


def contents(root: Path) -> dict[str, bytes]:
    """Of the files that git keeps."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*.json")
        if path.is_file()
    }


def add_line(store: RecordStore, text: str) -> None:
    with (store.folder / "records.json").open("a") as file:
        file.write(text + "\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A database of records that only a store looks into."""
    filled(tmp_path / "database", ENTRIES)
    return tmp_path / "database"


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with what a search found on this machine, and a second shape of its spec."""
    root = tmp_path_factory.mktemp("tuned")
    target = resolve_target("llvm", 2)
    case = Case(SPEC, PrefillShape(2, 24), parse_lengths("full"))
    (found,) = tune_case(
        case, target, ["llvm_fused"], Limit(trials=4), root, 1, lambda _: None
    ).kept
    provenance = replace(
        found.provenance,
        shape="b2_q32_kv32",
        variant={"q_tile": 16, "kv_tile": 32, "packed": False},
    )
    description = SPACES["llvm_fused"].describe(SPEC, PrefillShape(2, 32), provenance.variant)
    schedule = Schedule(description, seed=1)
    llvm_fused.schedule(schedule, packed=False)
    second = entry_from(
        description, trace_of(schedule), found.run_secs, target.target, provenance,
        describe_for_every_shape("llvm_fused", SPEC, provenance.variant),
    )  # fmt: skip
    RecordStore.open(root, target.key).add([second])
    shutil.rmtree(root / str(target.key) / "trials")
    return root


@pytest.fixture
def copied(tuned: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    shutil.copytree(tuned, tmp_path / "copy")
    return tmp_path / "copy"


def only_store(root: Path) -> RecordStore:
    (key,) = target_keys(root)
    return RecordStore.open(root, key)


# list, show


def test_list_shows_every_record_of_every_target(root: Path) -> None:
    filled(root, [small_entry(9)], FOREIGN_KEY)
    done = run("list", "--database", root)
    assert done.returncode == 0, done.stderr
    for entry in [*ENTRIES, small_entry(9)]:
        assert entry.record_id in done.stdout
    assert str(FOREIGN_KEY) in done.stdout
    assert SPEC_TEXT in done.stdout
    targets = run_json("list", "--database", root)["targets"]
    assert [each["target"] for each in targets] == [str(FOREIGN_KEY), str(KEY)]
    records = {each["record"]: each for each in targets[1]["records"]}
    assert records.keys() == {entry.record_id for entry in ENTRIES}
    assert records[ENTRIES[0].record_id]["median_secs"] == 1e-3
    only = run_json("list", "--database", root, "--target", FOREIGN_KEY)["targets"]
    assert [each["target"] for each in only] == [str(FOREIGN_KEY)]


def test_list_counts_bad_lines_and_goes_on_past_a_folder_of_another_tvm(root: Path) -> None:
    add_line(RecordStore.open(root, KEY), "{}")
    edit_provenance(filled(root, [small_entry(9)], FOREIGN_KEY), tvm="0.20.0")
    done = run("list", "--database", root)
    assert done.returncode == 0
    assert "1 bad line" in done.stdout
    assert "0.20.0" in done.stdout
    foreign, own = run_json("list", "--database", root)["targets"]
    assert "0.20.0" in foreign["error"]
    assert own["bad_lines"][0]["line"] == 4


def test_without_a_database_the_committed_records_are_listed(tmp_path: Path) -> None:
    assert run("list").returncode == 0


def test_a_database_without_records_is_told(tmp_path: Path) -> None:
    assert run("list", "--database", tmp_path).stdout == f"no records in {tmp_path}\n"


def test_records_cannot_move_the_cursor(tmp_path: Path) -> None:
    filled(tmp_path, [small_entry(1, lens="\x1b[2J\x1b[31mfull")])
    for command in (["list"], ["show", small_entry(1).record_id]):
        assert "\x1b" not in run(*command, "--database", tmp_path).stdout


def test_show_tells_everything(tmp_path: Path) -> None:
    filled(tmp_path, [small_entry(1), real_entry()])
    entry = real_entry()
    done = run("show", entry.record_id[:7], "--database", tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path / str(KEY) / 'records.json'}:2" in done.stdout.replace("\n", "")
    assert "sch.sample_perfect_tile" in done.stdout
    assert "SamplePerfectTile: [4, 4]" in done.stdout
    details = run_json("show", entry.record_id, "--database", tmp_path)
    assert details["line"] == 2
    assert details["run_secs"] == [2e-3, 2.1e-3, 1.0]
    assert details["trace"] == entry.trace
    assert details["versions"] == PROVENANCE.versions
    assert {each["instruction"] for each in details["decisions"]} == {
        "SamplePerfectTile", "SampleCategorical",
    }  # fmt: skip
    assert any("transform_layout" in line for line in details["python"])


def test_show_of_a_trace_that_tvm_refuses(root: Path) -> None:
    details = run_json("show", ENTRIES[0].record_id, "--database", root)
    assert details["python"] == []
    assert details["refusal"]


def test_show_needs_one_record(root: Path) -> None:
    none = run("show", "xyz", "--database", root)
    assert (none.returncode, none.stderr.count("\n")) == (2, 1)
    assert "'xyz'" in none.stderr
    several = run("show", "", "--database", root)
    assert several.returncode == 2
    assert "3 records begin with" in several.stderr


# verify, repair


def test_verify_names_bad_lines_and_repair_sets_them_aside(root: Path) -> None:
    assert run("verify", "--database", root).returncode == 0
    store = RecordStore.open(root, KEY)
    add_line(store, "{}")
    lines = (store.folder / "workloads.json").read_bytes().splitlines(keepends=True)
    (store.folder / "workloads.json").write_bytes(b"".join(lines[::-1]))  # indices go astray
    done = run("verify", "--database", root)
    assert done.returncode == 1
    assert f"{store.folder / 'records.json'}:4: " in done.stdout
    assert f"{store.folder / 'records.json'}:1: workload index" in done.stdout
    found = run_json("verify", "--database", root, code=1)
    assert found["records"] == 3

    done = run("repair", "--database", root)
    assert done.returncode == 0
    assert ":4: " in done.stdout
    store = RecordStore.open(root, KEY)
    assert {entry.record_id for entry in store.entries} == {each.record_id for each in ENTRIES}
    assert not store.problems
    assert "{}" in (store.folder / "records.rejected.json").read_text()
    before = contents(root)
    again = run("repair", "--database", root)
    assert "nothing to repair" in again.stdout
    assert contents(root) == before
    assert run("verify", "--database", root).returncode == 0


def test_verify_reports_folders_that_cannot_be_read(root: Path) -> None:
    edit_provenance(filled(root, [small_entry(9)], FOREIGN_KEY), tvm="0.20.0")
    done = run("verify", "--database", root)
    assert done.returncode == 1
    assert "0.20.0" in done.stdout
    assert "read 3 records" in done.stdout
    assert run("repair", "--database", root).returncode == 1


def test_what_git_left_unmerged_is_refused_with_the_way_to_merge_it(root: Path) -> None:
    path = RecordStore.open(root, KEY).folder / "provenance.json"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:5], "<<<<<<< HEAD", "=======", ">>>>>>> one", *lines[5:]]))
    for command in ("verify", "repair"):
        done = run(command, "--database", root)
        assert done.returncode == 1
        assert "git merge --abort" in done.stdout
        assert "db install-merge-driver" in done.stdout


def test_verify_replay_and_measure(copied: Path) -> None:
    store = only_store(copied)
    good = store.entries
    stale = replace(
        good[0],
        record_id=record_id(good[0].workload_line[0], [[], []]),
        trace=[[], []],
        provenance=replace(good[0].provenance, space="no_space"),
    )
    foreign = replace(
        good[0], target_json={"kind": "llvm", "mcpu": "skylake-avx512", "num-cores": 48}
    )
    on_a_file = replace(
        good[0],
        record_id=record_id(good[0].workload_line[0], [[], [1]]),
        trace=[[], [1]],
        provenance=replace(good[0].provenance, lens="histogram:served-0123abcd"),
    )
    store.add([stale, on_a_file])
    filled(copied, [foreign], FOREIGN_KEY)
    found = run_json("verify", "--replay", "--measure", "--database", copied, code=1)
    assert (found["records"], found["bad_lines"]) == (5, [])
    failed = {each["record"]: each["failure"] for each in found["replay"]["failed"]}
    assert failed.keys() == {stale.record_id, on_a_file.record_id}
    assert "no_space" in failed[stale.record_id]
    assert found["replay"]["rebuilt"] == 3  # one of them for a CPU that this one may not be
    measured = {each["record"]: each for each in found["measure"]["times"]}
    assert found["measure"]["other_machines"] == 1
    assert found["measure"]["lengths_of_files"] == 1
    assert on_a_file.record_id not in measured
    assert "no_space" in measured[stale.record_id]["failure"]
    for entry in good:
        each = measured[entry.record_id]
        assert each["failure"] == ""
        assert each["max_abs_error"] <= 2e-5
        assert each["ratio"] == pytest.approx(each["median_secs"] / each["recorded_secs"])


def test_measure_tells_drift(copied: Path) -> None:
    store = only_store(copied)
    first, second = store.entries
    slow = replace(
        first,
        run_secs=(90.0, 100.0, 110.0),
        provenance=replace(first.provenance, median_secs=100.0, spread_secs=10.0),
    )
    store.add([slow])
    done = run("verify", "--measure", "--database", copied)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 drifted" in done.stdout or "2 drifted" in done.stdout
    (row,) = (line for line in done.stdout.splitlines() if slow.record_id in line)
    assert "drifted" in row
    assert second.record_id in done.stdout


def test_a_wrong_kernel_is_told_and_not_timed(tuned: Path, tmp_path: Path) -> None:
    """A kernel for other numbers of the same types, where the record's should be."""
    entry = only_store(tuned).entries[0]
    machine = resolve_target("llvm", 2)
    shape = PrefillShape.parse(entry.provenance.shape)
    path = str(tmp_path / "wrong.so")
    build_library(plain_attention(replace(SPEC, sm_scale=0.3), shape), machine.target, path)
    with Worker(tvm_environment(2)) as runner:
        told = _remeasure(Rebuilt(machine.key, entry, entry, path), machine, runner)
    assert told.after is None
    assert "wrong result" in told.failure


# prune, export, import, merge, diff


def test_prune_keeps_the_fastest(root: Path) -> None:
    removed = run_json("prune", "--keep", 1, "--database", root)["removed"]
    assert [each["record"] for each in removed] == [ENTRIES[1].record_id]
    assert "removed 0 records" in run("prune", "--keep", 1, "--database", root).stdout
    bad = run("prune", "--keep", 0, "--database", root)
    assert (bad.returncode, bad.stderr.count("\n")) == (2, 1)


def test_remove_takes_whole_ids(copied: Path) -> None:
    first, *others = only_store(copied).entries
    bad = run("remove", first.record_id, "0" * 16, "--database", copied)
    assert (bad.returncode, bad.stderr.count("\n")) == (2, 1)
    assert "0" * 16 in bad.stderr
    assert only_store(copied).entries == [first, *others]
    (removed,) = run_json("remove", first.record_id, "--database", copied)["removed"]
    assert removed["record"] == first.record_id
    assert only_store(copied).entries == others


@pytest.mark.parametrize("ending", ["json", "tar.gz"])
def test_export_and_import(copied: Path, tmp_path: Path, ending: str) -> None:
    file, into = tmp_path / f"records.{ending}", tmp_path / "into"
    chosen = only_store(copied).entries[0]
    options = ["--spec", chosen.provenance.spec, "--shape", chosen.provenance.shape]
    assert run_json("export", file, *options, "--database", copied)["records"] == 1
    (target,) = run_json("import", file, "--database", into)["targets"]
    assert target["added"] == [chosen.record_id]
    assert only_store(into).entries == [chosen]
    (target,) = run_json("import", file, "--database", into)["targets"]
    assert (target["added"], target["updated"], target["refused"]) == ([], [], {})


def test_import_refuses_what_does_not_replay(root: Path, tmp_path: Path) -> None:
    assert run("export", tmp_path / "records.json", "--database", root).returncode == 0
    done = run("import", tmp_path / "records.json", "--database", tmp_path / "into")
    assert done.returncode == 1
    assert f"refused {ENTRIES[0].record_id}: " in done.stdout
    assert not (tmp_path / "into").exists()


def test_merge_and_diff(copied: Path, tmp_path: Path) -> None:
    store = only_store(copied)
    first, second = store.entries
    later = replace(
        first,
        run_secs=tuple(secs * 2 for secs in first.run_secs),
        provenance=replace(
            first.provenance, median_secs=first.provenance.median_secs * 2, date="2099-01-01"
        ),
    )
    other = tmp_path / "other"
    filled(other, [later], store.key)
    shown = run_json("diff", copied, other)
    changes = {each["change"]: each for each in shown["records"]}
    assert changes["changed"]["ratio"] == pytest.approx(2)
    assert changes["removed"]["before"]["record"] == second.record_id
    assert "2.00" in run("diff", copied, other).stdout
    (target,) = run_json("merge", copied, other)["targets"]
    assert target["updated"] == [first.record_id]
    assert run_json("diff", copied, copied) == {"records": [], "best": []}
    (change,) = run_json("diff", other, copied)["records"]
    assert change["change"] == "added"
    out = run("merge", other, copied, "--output", tmp_path / "out")
    assert out.returncode == 0
    assert "added 2 records" in out.stdout
    assert contents(tmp_path / "out") == contents(copied)


# migrate


def test_migrate_takes_what_replays_and_lists_the_rest(copied: Path, tmp_path: Path) -> None:
    store = only_store(copied)
    good = store.entries
    bad = replace(
        good[0],
        record_id=record_id(good[0].workload_line[0], [[["NoSuch", [], [], []]], []]),
        trace=[[["NoSuch", [], [], []]], []],
    )
    store.add([bad])
    filled(copied, [good[0]], FOREIGN_KEY)
    for key in target_keys(copied):
        edit_provenance(RecordStore.open(copied, key), tvm="0.26.1")
    assert run("list", "--database", copied, "--json").returncode == 0
    before, into = contents(copied), tmp_path / "into"
    done = run_json("migrate", copied, "--database", into, code=1)
    assert {each["record"] for each in done["moved"]} == {each.record_id for each in good}
    left = {each["target"]: each for each in done["left"]}
    assert "NoSuch" in left[str(store.key)]["failure"]
    assert "another machine" in left[str(FOREIGN_KEY)]["failure"]
    assert set(done["tvm"].values()) == {"0.26.1"}
    assert contents(copied) == before
    moved = only_store(into)
    assert not moved.problems
    assert {entry.record_id for entry in moved.entries} == {entry.record_id for entry in good}
    assert all(entry.provenance.versions["tvm"].startswith("0.27") for entry in moved.entries)


def test_migrate_never_writes_into_its_source(copied: Path) -> None:
    before = contents(copied)
    done = run("migrate", copied, "--database", copied)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--database" in done.stderr
    assert contents(copied) == before


# errors, the driver


@pytest.mark.parametrize(
    "arguments",
    [
        ["list"], ["show", "ab"], ["verify"], ["repair"], ["prune", "--keep", "1"],
        ["export", "x.json"],
    ],
)  # fmt: skip
def test_a_database_that_is_not_there(arguments: Iterable[str], tmp_path: Path) -> None:
    done = run(*arguments, "--database", tmp_path / "none")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert str(tmp_path / "none") in done.stderr
    assert done.stderr.startswith("prefilltune: ")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "--target", "llvm-nosuch-2c"], "no records of llvm-nosuch-2c"),
        (["list", "--target", "gpu"], "target 'gpu' is unknown"),
        (["export", "records.zip"], "must end in .json"),
        (["export", "records.json", "--space", "nosuch"], "no record is selected"),
        (["export", "records.json", "--shape", "wide"], "'wide' is not a shape"),
        (["import", "nosuch.json"], "does not exist"),
    ],
)
def test_bad_input_is_one_line(root: Path, arguments: list[str], message: str) -> None:
    done = run(*arguments, "--database", root)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert message in done.stderr


def test_the_driver_needs_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    done = run("install-merge-driver")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "git repository" in done.stderr
