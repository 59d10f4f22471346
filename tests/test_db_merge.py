"""Merging databases: nothing is lost, whatever the order, and nothing bad comes in."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from database_fixtures import (
    FILES,
    KEY,
    PROVENANCE,
    description,
    filled,
    llvm_target,
    scheduled,
    small_entry,
    trace_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from prefilltune.database import (
    DatabaseNotFoundError,
    Entry,
    RecordStore,
    TargetKey,
    entry_from,
    merge,
    merging,
    target_keys,
    union,
)

OTHER_KEY = TargetKey("llvm", "znver4", "4c")
DATES = ("2026-11-22", "2026-11-22T00:00:00+00:00", "2026-11-23T01:00:00+02:00", "2026-12-99")

ENTRIES = st.builds(
    lambda number, workload, secs, date: small_entry(number, workload, secs, date=date),
    st.integers(0, 3),
    st.integers(0, 1),
    st.sampled_from([1e-3, 2e-3]),
    st.sampled_from(DATES),
)
DATABASES = st.lists(ENTRIES, max_size=6, unique_by=lambda entry: entry.record_id)


def accept_all(entries: Sequence[Entry]) -> dict[str, str]:
    return {}


def contents(root: Path) -> dict[str, bytes]:
    """Of every file of records under a database."""
    return {
        f"{folder.name}/{name}": (folder / name).read_bytes()
        for folder in root.iterdir()
        for name in FILES
    }


def made(root: Path, entries: Sequence[Entry]) -> Path:
    root.mkdir()
    if entries:
        filled(root, list(entries))
    return root


@given(DATABASES, DATABASES, DATABASES)
def test_union_is_commutative_associative_and_idempotent(one, other, third):
    both = union(one, other)
    assert both == union(other, one)
    assert union(both.values(), third) == union(one, union(other, third).values())
    assert union(both.values(), one) == union(both.values(), both.values()) == both
    assert {*both} == {entry.record_id for entry in [*one, *other]}


@settings(max_examples=settings().max_examples // 8)
@given(DATABASES, DATABASES)
def test_merges_in_either_order_are_equal_to_the_byte(one, other):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(merging, "judge", accept_all)  # these have no TVM workloads
        root = Path(folder)
        a, b = made(root / "a", one), made(root / "b", other)
        before = contents(a), contents(b)
        merge([a, b], root / "ab")
        merge([b, a], root / "ba")
        assert (contents(a), contents(b)) == before
        if not [*one, *other]:
            assert not (root / "ab").exists()
            return
        wanted = contents(root / "ab")
        assert wanted == contents(root / "ba")
        merge([root / "ab", a, b], root / "ab")  # again
        assert contents(root / "ab") == wanted
        merge([a, b], a)
        merge([b, a], b)
        assert contents(a) == contents(b) == wanted
        store = RecordStore.open(a, KEY)
        assert not store.problems
        assert {entry.record_id: entry for entry in store.entries} == union(one, other)


def test_every_folder_is_read_once(tmp_path, monkeypatch):
    opened: Counter[Path] = Counter()
    real = RecordStore.open.__func__

    def count(cls, root, key, **options):
        opened[root] += 1
        return real(cls, root, key, **options)

    a, b = made(tmp_path / "a", [small_entry(1)]), made(tmp_path / "b", [small_entry(2)])
    monkeypatch.setattr(RecordStore, "open", classmethod(count))
    monkeypatch.setattr(merging, "judge", accept_all)
    merge([a, b], a)
    assert opened == {a: 1, b: 1}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_two_measurements_the_later_stays(tmp_path, monkeypatch, order):
    monkeypatch.setattr(merging, "judge", accept_all)
    earlier = small_entry(1, secs=1e-3, date="2026-11-22T10:00:00+00:00")
    later = small_entry(1, secs=3e-3, date="2026-11-22T11:30:00+02:00")  # 9:30 in UTC
    later, earlier = earlier, later
    roots = [made(tmp_path / "a", [earlier]), made(tmp_path / "b", [later])]
    (done,) = merge([roots[index] for index in order], tmp_path / "c")
    assert RecordStore.open(tmp_path / "c", KEY).entries == [later]
    assert done.added == (later,)
    (done,) = merge(roots, roots[0])
    assert (done.added, done.updated) == ((), (later,))
    (done,) = merge(roots, roots[1])
    assert (done.added, done.updated) == ((), ())


def test_targets_stay_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(merging, "judge", accept_all)
    a, b = tmp_path / "a", tmp_path / "b"
    filled(a, [small_entry(1)])
    filled(b, [small_entry(1)], OTHER_KEY)
    (a / "notes").mkdir()
    merge([a, b], tmp_path / "c")
    assert target_keys(tmp_path / "c") == [KEY, OTHER_KEY]
    merge([a, b], tmp_path / "d", [OTHER_KEY])
    assert target_keys(tmp_path / "d") == [OTHER_KEY]


def real(text: str, date: str = PROVENANCE.date) -> Entry:
    """A record that TVM replays."""
    return entry_from(
        description(), trace_of(scheduled(text)), [2e-3, 2.1e-3, 1.9e-3], llvm_target(),
        replace(PROVENANCE, date=date),
    )  # fmt: skip


def test_what_comes_from_elsewhere_is_judged(tmp_path):
    good, own = real("good"), real("own")
    a, b = made(tmp_path / "a", [own]), made(tmp_path / "b", [good, small_entry(1), own])
    (done,) = merge([a, b], a)
    assert done.added == (good,)
    assert [*done.refused] == [small_entry(1).record_id]
    assert done.refused[small_entry(1).record_id]
    assert RecordStore.open(b, KEY).entries == [good, small_entry(1), own]
    store = RecordStore.open(a, KEY)
    assert {entry.record_id for entry in store.entries} == {good.record_id, own.record_id}
    merge([a, b], tmp_path / "ab")
    merge([b, a], tmp_path / "ba")
    assert contents(tmp_path / "ab") == contents(tmp_path / "ba") == contents(a)


def test_a_forged_copy_does_not_displace_the_record(tmp_path):
    """Of one id twice, each has a verdict of its own."""
    good = real("good")
    forged = replace(good, run_secs=(1.0,), provenance=replace(PROVENANCE, date="2099-01-01"))
    roots = [made(tmp_path / "a", [good]), made(tmp_path / "b", [forged])]
    (done,) = merge(roots[::-1], tmp_path / "c")
    assert done.added == (good,)
    assert "median" in done.refused[good.record_id]


def test_bad_lines_of_a_source_are_named_and_those_of_the_output_set_aside(tmp_path, monkeypatch):
    monkeypatch.setattr(merging, "judge", accept_all)
    a, b = made(tmp_path / "a", [small_entry(1)]), made(tmp_path / "b", [small_entry(2)])
    for root in (a, b):
        with (root / str(KEY) / "records.json").open("a") as file:
            file.write("{}\n")
    before = contents(b)
    (done,) = merge([a, b], a)
    assert [(folder.parent, line.file, line.line) for folder, line in done.bad_lines] == [
        (a, "records.json", 2),
        (b, "records.json", 2),
    ]
    assert contents(b) == before
    store = RecordStore.open(a, KEY)
    assert (len(store.entries), store.problems) == (2, [])
    assert "{}" in (store.folder / "records.rejected.json").read_text()


def test_a_missing_source_is_refused(tmp_path):
    a = made(tmp_path / "a", [small_entry(1)])
    with pytest.raises(DatabaseNotFoundError, match="nowhere"):
        merge([a, tmp_path / "nowhere"], a)
    shutil.rmtree(a)
    with pytest.raises(DatabaseNotFoundError):
        merge([a], a)
