from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from database_fixtures import FILES, KEY, PROVENANCE, edit_provenance, filled, small_entry
from hypothesis import given
from hypothesis import strategies as st
from rotten_files import JUNK, damages, open_or_refusal

from prefilltune.database import (
    DatabaseNotFoundError,
    Entry,
    InvalidTargetKeyError,
    MalformedProvenanceError,
    Provenance,
    RecordStore,
    TargetKey,
    VersionMismatchError,
    record_id,
)

ENTRIES = [small_entry(number, workload=number % 3) for number in range(7)]
PLAIN = [replace(entry, provenance=PROVENANCE) for entry in ENTRIES]


def by_id(entries):
    return {entry.record_id: entry for entry in entries}


# Keys and provenance

PARTS = st.from_regex(r"[A-Za-z0-9_.-]+", fullmatch=True)


@given(PARTS, PARTS, PARTS | st.just(""))
def test_a_target_key_survives_its_text(kind, arch, device):
    key = TargetKey(kind, arch, device)
    assert TargetKey.parse(str(key)) == key
    assert Path(str(key)).name == str(key)


def test_target_key_texts():
    assert str(TargetKey("llvm", "x86-64-v3")) == "llvm-x86_64_v3"
    assert TargetKey.parse("cuda-sm_90a-h100") == TargetKey("cuda", "sm_90a", "h100")
    assert TargetKey.parse("cuda-sm_90a-h100").family == "cuda-sm_90a"


@pytest.mark.parametrize("text", ["llvm", "a-b-c-d", "a--c", "a-b-", "../x-y", "a-b/c", "a-b c"])
def test_bad_target_keys_are_refused(text):
    with pytest.raises(InvalidTargetKeyError, match="target"):
        TargetKey.parse(text)


def test_provenance_survives_json():
    assert Provenance.from_json(json.loads(json.dumps(PROVENANCE.to_json()))) == PROVENANCE


@pytest.mark.parametrize(
    ("field", "value"),
    [("median_secs", 0), ("median_secs", float("nan")), ("max_abs_error", float("inf")),
     ("shape", "4x128"), ("date", "yesterday"), ("variant", {"q_tile": [1]}), ("trials", 1.5)],
)  # fmt: skip
def test_bad_provenance_is_refused_before_anything_is_written(tmp_path, field, value):
    entry = replace(ENTRIES[0], provenance=replace(PROVENANCE, **{field: value}))
    store = RecordStore.open(tmp_path, KEY, create=True)
    with pytest.raises(MalformedProvenanceError):
        store.add([entry])
    assert not any((store.folder / name).exists() for name in FILES)


@pytest.mark.parametrize("times", [(), (0.0,), (-1.0,), (1e10,), (float("nan"),), (True,)])
def test_times_that_metaschedule_would_misread_are_refused(times):
    with pytest.raises(ValueError, match="measured times"):
        replace(ENTRIES[0], run_secs=times)


# The plain life of a store


def test_what_was_added_is_read_back(tmp_path):
    filled(tmp_path, ENTRIES[:3]).add(ENTRIES[3:])
    store = RecordStore.open(tmp_path, KEY)
    assert store.entries == ENTRIES
    assert store.problems == []
    assert len((store.folder / "workloads.json").read_text().splitlines()) == 3


def test_a_missing_folder_is_an_error_and_is_not_made(tmp_path):
    with pytest.raises(DatabaseNotFoundError, match=str(KEY)):
        RecordStore.open(tmp_path / "nowhere", KEY)
    assert RecordStore.open(tmp_path / "nowhere", KEY, create=True).entries == []
    assert not (tmp_path / "nowhere").exists()


def test_adding_an_id_again_updates_times_and_provenance(tmp_path):
    store = filled(tmp_path, ENTRIES)
    faster = small_entry(3, workload=0, secs=1e-3, seed=5)
    assert faster.record_id == ENTRIES[3].record_id
    store.add([faster])
    assert store.problems == []
    assert by_id(store.entries) == {**by_id(ENTRIES), faster.record_id: faster}


def test_replace_drops_records_and_their_workloads(tmp_path):
    store = filled(tmp_path, ENTRIES)
    kept = [entry for entry in ENTRIES if entry.workload_line[0] == "1"]
    store.replace(kept)
    assert by_id(RecordStore.open(tmp_path, KEY).entries) == by_id(kept)
    assert [json.loads(line)[0] for line in (store.folder / "workloads.json").open()] == ["1"]
    assert not (store.folder / "records.rejected.json").exists()


def test_prune_keeps_the_fastest_of_each_group(tmp_path):
    slow, fast, faster = (small_entry(n, secs=s) for n, s in enumerate((3e-3, 2e-3, 1e-3)))
    other_shape = small_entry(3, secs=9e-3, shape="b2_q32_kv32")
    other_lens = small_entry(4, secs=9e-3, lens="mixed")
    store = filled(tmp_path, [slow, fast, faster, other_shape, other_lens])
    assert store.prune(2) == [slow]
    assert by_id(store.entries) == by_id([fast, faster, other_shape, other_lens])
    with pytest.raises(ValueError, match="keep"):
        store.prune(0)


def test_rewriting_saves_bad_lines_and_lost_provenance(tmp_path):
    store = filled(tmp_path, ENTRIES)
    records = store.folder / "records.json"
    lines = records.read_bytes().split(b"\n")
    lines[1] = b"\xff torn"
    records.write_bytes(b"\n".join(lines))
    store = RecordStore.open(tmp_path, KEY)
    assert [(bad.file, bad.line) for bad in store.problems] == [("records.json", 2)]
    store.prune(100)
    assert store.problems == []
    assert by_id(store.entries) == by_id(ENTRIES[:1] + ENTRIES[2:])
    rejected = [json.loads(line) for line in (store.folder / "records.rejected.json").open()]
    assert rejected[0]["text"].encode(errors="surrogateescape") == b"\xff torn"
    assert rejected[1][ENTRIES[1].record_id] == asdict(ENTRIES[1].provenance)


@pytest.mark.parametrize("name", ["records.json", "workloads.json"])
def test_adding_after_a_torn_last_line_harms_neither(tmp_path, name):
    store = filled(tmp_path, ENTRIES[:1])
    with (store.folder / name).open("ab") as file:
        file.write(b'[0,[[["GetSB')
    store.add(ENTRIES[1:])
    assert store.entries == ENTRIES
    assert store.problems == []
    (torn,) = map(json.loads, (store.folder / "records.rejected.json").open())
    assert (torn["file"], torn["text"]) == (name, '[0,[[["GetSB')


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"tvm": "0.26.0"}, VersionMismatchError, ["0.26.0", "0.27", "install"]),
        ({"target": "llvm-other"}, MalformedProvenanceError, ["llvm-other", str(KEY)]),
        ({"schema": 2}, MalformedProvenanceError, ["schema", "git"]),
        ({"records": []}, MalformedProvenanceError, ["records", "git"]),
    ],
)
def test_a_folder_that_cannot_be_trusted_is_refused(tmp_path, changes, error, words):
    path = edit_provenance(filled(tmp_path, ENTRIES), **changes)
    with pytest.raises(error) as caught:
        RecordStore.open(tmp_path, KEY)
    assert all(word in str(caught.value) for word in [str(path), *words])


def test_a_patch_version_of_tvm_is_no_mismatch(tmp_path):
    edit_provenance(filled(tmp_path, ENTRIES), tvm="0.27.99")
    assert RecordStore.open(tmp_path, KEY).entries == ENTRIES


def test_bad_provenance_of_one_record_costs_only_that_record(tmp_path):
    store = filled(tmp_path, ENTRIES)
    path = store.folder / "provenance.json"
    data = json.loads(path.read_text())
    data["records"][ENTRIES[2].record_id]["median_secs"] = -1
    path.write_text(json.dumps(data, indent=1))
    store = RecordStore.open(tmp_path, KEY)
    assert store.entries == ENTRIES[:2] + ENTRIES[3:]
    assert [bad.file for bad in store.problems] == ["provenance.json", "records.json"]
    assert ENTRIES[2].record_id in path.read_text().splitlines()[store.problems[0].line - 1]


def test_the_right_workload_is_found_in_spite_of_a_wrong_index(tmp_path):
    store = filled(tmp_path, ENTRIES)
    path = store.folder / "workloads.json"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    store = RecordStore.open(tmp_path, KEY)
    assert store.entries == ENTRIES
    assert [bad.line for bad in store.problems] == [1, 3, 4, 6, 7]
    store.prune(100)
    assert store.problems == []


# Corruption: nothing crashes, nothing intact is lost, what is bad is named


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    root = tmp_path_factory.mktemp("pristine")
    filled(root, ENTRIES)
    return root


def corrupted_copy(pristine: Path, root: Path, name: str, damage) -> tuple[list, list]:
    """Damage one file; returns its lines before and after."""
    shutil.copytree(pristine, root, dirs_exist_ok=True)
    path = root / str(KEY) / name
    before = path.read_bytes()
    after = damage(before)
    path.write_bytes(after)
    return before.split(b"\n")[:-1], after.split(b"\n")


@pytest.mark.parametrize("name", ["records.json", "workloads.json"])
@pytest.mark.parametrize("junk", JUNK, ids=range(len(JUNK)))
def test_junk_is_skipped_and_named(tmp_path, name, junk):
    store = filled(tmp_path, ENTRIES)
    with (store.folder / name).open("ab") as file:
        file.write(junk + b"\n")
    count = len((store.folder / name).read_bytes().split(b"\n")) - 1
    store = RecordStore.open(tmp_path, KEY)
    assert store.entries == ENTRIES
    assert [(bad.file, bad.line) for bad in store.problems] == [(name, count)]


@pytest.mark.parametrize("junk", JUNK, ids=range(len(JUNK)))
def test_junk_for_provenance_is_refused(tmp_path, junk):
    path = filled(tmp_path, ENTRIES).folder / "provenance.json"
    path.write_bytes(junk)
    with pytest.raises(MalformedProvenanceError, match=r"provenance\.json"):
        RecordStore.open(tmp_path, KEY)


def test_a_record_that_is_there_twice_is_named(tmp_path):
    path = filled(tmp_path, ENTRIES).folder / "records.json"
    path.write_bytes(path.read_bytes() * 2)
    store = RecordStore.open(tmp_path, KEY)
    assert store.entries == ENTRIES
    assert [bad.line for bad in store.problems] == list(range(8, 15))
    assert all("twice" in bad.reason for bad in store.problems)


def test_an_edited_copy_never_hides_the_intact_record(tmp_path):
    path = filled(tmp_path, ENTRIES[:1]).folder / "records.json"
    line = path.read_bytes()
    path.write_bytes(line.replace(b"[0.002,", b"[0.001,") + line)
    store = RecordStore.open(tmp_path, KEY)
    assert store.entries == ENTRIES[:1]
    assert [bad.line for bad in store.problems] == [1]


@given(damage=damages())
def test_corrupt_records(pristine, damage):
    with tempfile.TemporaryDirectory() as root:
        before, after = corrupted_copy(pristine, Path(root), "records.json", damage)
        store = RecordStore.open(Path(root), KEY)
        originals = dict(zip(before, ENTRIES, strict=True))
        found = by_id(store.entries)
        assert by_id(originals[line] for line in before if line in after).items() <= found.items()
        assert found.items() <= by_id(ENTRIES).items()  # a changed index alone is mended
        lines = after if after[-1] else after[:-1]
        changed = {number for number, line in enumerate(lines, 1) if line not in originals}
        assert changed <= {bad.line for bad in store.problems if bad.file == "records.json"}
        store.prune(100)
        assert by_id(store.entries) == found
        assert store.problems == []


@given(damage=damages())
def test_corrupt_workloads(pristine, damage):
    with tempfile.TemporaryDirectory() as root:
        before, after = corrupted_copy(pristine, Path(root), "workloads.json", damage)
        store = RecordStore.open(Path(root), KEY)
        intact = {json.loads(line)[0] for line in before if line in after}
        survivors = [entry for entry in ENTRIES if entry.workload_line[0] in intact]
        assert by_id(survivors).items() <= by_id(store.entries).items()
        assert by_id(store.entries).items() <= by_id(ENTRIES).items()
        lost = len(ENTRIES) - len(store.entries)
        assert sum(bad.file == "records.json" for bad in store.problems) >= lost
        store.add([small_entry(100, workload=9), *ENTRIES])
        assert by_id(ENTRIES).items() <= by_id(store.entries).items()


@given(damage=damages())
def test_corrupt_provenance(pristine, damage):
    with tempfile.TemporaryDirectory() as root:
        before, after = corrupted_copy(pristine, Path(root), "provenance.json", damage)
        store, refusal = open_or_refusal(Path(root))
        if store is None:
            assert "provenance.json" in refusal
            assert before != after[:-1]
            return
        for entry in store.entries:  # a changed time or seed in the provenance goes unseen
            assert replace(entry, provenance=PROVENANCE) in PLAIN
        assert len(store.entries) == len(ENTRIES) or store.problems


# Crashes and company


class Crash(BaseException):
    """Power cut."""


@pytest.mark.parametrize("syncs", range(8))
@pytest.mark.parametrize(
    ("change", "kept"),
    [(lambda store: store.add([small_entry(50, workload=8)]), ENTRIES),
     (lambda store: store.add([small_entry(2, workload=2, secs=1e-4)]), ENTRIES),
     (lambda store: store.replace(ENTRIES[3:]), ENTRIES[3:])],
    ids=["append", "update", "replace"],
)  # fmt: skip
def test_a_crash_at_any_sync_loses_nothing(tmp_path, monkeypatch, request, change, kept, syncs):
    store = filled(tmp_path, ENTRIES)
    left = iter(range(syncs))

    def fsync(descriptor):
        if next(left, None) is None:
            raise Crash

    with monkeypatch.context() as patch, contextlib.suppress(Crash):
        patch.setattr(os, "fsync", fsync)
        change(store)
    store = RecordStore.open(tmp_path, KEY)
    found = by_id(store.entries)
    assert by_id(kept).keys() <= found.keys()
    assert all(found[entry.record_id].trace == entry.trace for entry in kept)
    if "append" in request.node.name:  # a record appears only when all that it needs is there
        assert by_id(kept).items() <= found.items()
        assert not any(bad.file == "records.json" for bad in store.problems)
    store.add([small_entry(60)])
    assert {*found, small_entry(60).record_id} <= by_id(store.entries).keys()


WRITER = """
import sys
from pathlib import Path
from database_fixtures import KEY, small_entry
from prefilltune.database import RecordStore

root, first, count, rewrite = Path(sys.argv[1]), *map(int, sys.argv[2:])
store = RecordStore.open(root, KEY, create=True)
for number in range(first, first + count):
    entry = small_entry(number, workload=number % 5)
    store.add([entry])
    if rewrite and number % 3 == 0:
        store.add([entry])
    print(entry.record_id, flush=True)
"""


def child_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def start_writer(root: Path, first: int, count: int, rewrite: bool = False) -> subprocess.Popen:
    command = [sys.executable, "-c", WRITER, *map(str, (root, first, count, int(rewrite)))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=child_environment())


def test_concurrent_writers_lose_nothing(tmp_path):
    writers = [start_writer(tmp_path, first, 8, rewrite=first == 0) for first in range(0, 400, 100)]
    acknowledged = {id_ for writer in writers for id_ in writer.communicate(timeout=60)[0].split()}
    assert [writer.returncode for writer in writers] == [0] * 4
    store = RecordStore.open(tmp_path, KEY)
    assert len(acknowledged) == 32
    assert by_id(store.entries).keys() == acknowledged
    assert store.problems == []


@pytest.mark.parametrize("seed", range(3))
def test_killing_a_writer_leaves_acknowledged_records(tmp_path, seed):
    writer = start_writer(tmp_path, 0, 10_000, rewrite=True)
    assert writer.stdout is not None
    acknowledged = [
        writer.stdout.readline().strip() for _ in range(random.Random(seed).randint(3, 12))
    ]
    writer.send_signal(signal.SIGKILL)
    acknowledged += writer.communicate(timeout=60)[0].split()
    store = RecordStore.open(tmp_path, KEY)
    assert set(acknowledged) <= by_id(store.entries).keys()
    store.add([small_entry(20_000)])
    assert {*acknowledged, small_entry(20_000).record_id} <= by_id(store.entries).keys()


READ_ONLY = """
import os, sys
from pathlib import Path
from database_fixtures import KEY, small_entry
from prefilltune.database import NotWritableError, RecordStore
from prefilltune.workloads import useful_flops  # what another user may not be able to import

def check():
    store = RecordStore.open(Path(sys.argv[1]), KEY)
    assert len(store.entries) == 7 and not store.problems
    try:
        store.add([small_entry(99)])
    except NotWritableError as error:
        assert "read-only" in str(error), error
        return "refused"

RecordStore.open(Path(sys.argv[1]), KEY)
if os.getuid() == 0:  # root writes anywhere: go on as nobody, all modules loaded
    os.setuid(65534)
print(check())
"""


def test_a_read_only_database_is_read_and_never_written():
    root = Path(tempfile.mkdtemp())  # tmp_path is closed to other users
    try:
        store = filled(root, ENTRIES)
        (store.folder / ".lock").unlink(missing_ok=True)
        before = sorted(store.folder.iterdir())
        root.chmod(0o555)
        for path in [*before, store.folder]:
            path.chmod(0o555)
        done = subprocess.run(
            [sys.executable, "-c", READ_ONLY, str(root)],
            capture_output=True, text=True, timeout=60, env=child_environment(),
        )  # fmt: skip
        assert done.stdout == "refused\n", done.stderr
        assert sorted(store.folder.iterdir()) == before
    finally:
        for path in (root, root / str(KEY)):
            path.chmod(0o755)
        shutil.rmtree(root)


def of_lengths(lens: str, secs: float) -> Entry:
    """The same schedule on the same workload, measured on other lengths."""
    entry = small_entry(0, secs=secs, lens=lens)
    median = statistics.median(entry.run_secs)
    provenance = replace(entry.provenance, median_secs=median)
    id_ = record_id(entry.workload_line[0], entry.trace, lens)
    return replace(entry, record_id=id_, provenance=provenance)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_one_schedule_may_be_the_best_for_several_lengths(
    tmp_path: Path, order: tuple[int, ...]
) -> None:
    entries = [
        of_lengths("full", 3e-3),
        of_lengths("uniform", 2e-3),
        of_lengths("uniform:0.1-1", 1e-3),
    ]
    for index in order:
        RecordStore.open(tmp_path, KEY, create=True).add([entries[index]])
    store = RecordStore.open(tmp_path, KEY)
    assert not store.problems
    assert sorted(store.entries, key=lambda each: each.speed) == entries[::-1]
    assert store.prune(1) == []
    again = of_lengths("uniform", 1.5e-3)
    store.add([again])
    kept = {each.provenance.lens: each for each in RecordStore.open(tmp_path, KEY).entries}
    assert kept == {"full": entries[0], "uniform": again, "uniform:0.1-1": entries[2]}


def test_an_id_of_old_has_no_lengths(tmp_path: Path) -> None:
    entry = small_entry(0, lens="uniform")
    assert entry.record_id == record_id(entry.workload_line[0], entry.trace)
    store = filled(tmp_path, [entry, of_lengths("uniform:0.1-1", 1e-3)])
    assert entry in RecordStore.open(tmp_path, KEY).entries
    assert len(store.entries) == 2
