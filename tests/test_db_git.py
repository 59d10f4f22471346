"""Branches of a real git repository, merged by the driver."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from database_fixtures import KEY, small_entry
from hypothesis import given
from hypothesis import strategies as st

from prefilltune.database import Entry, RecordStore, UnmergeableError, merge_versions, union
from prefilltune.database.git_merging import merge_linked, three_way

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@b",
}  # fmt: skip
ROOT = Path("database") / "records"


class Repository:
    """A git repository with the driver, and records where this project has them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self.git("init", "-q", "-b", "main")
        installed = subprocess.run(
            [sys.executable, "-m", "prefilltune.tuning", "db", "install-merge-driver"],
            cwd=path, env=ENVIRONMENT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        lines = [line for line in installed.stdout.splitlines() if line.startswith("database/")]
        assert len(lines) == 3
        (path / ".gitattributes").write_text("\n".join(lines) + "\n")
        (path / ".gitignore").write_text(".lock\n*.tmp\n.index*\n.*\n!.git*\n")

    def git(self, *arguments: str, ok: bool = True) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=self.path, env=ENVIRONMENT, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert not ok or done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    @property
    def store(self) -> RecordStore:
        return RecordStore.open(self.path / ROOT, KEY, create=True)

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-qm", "records")

    def branch(self, name: str, start: str = "main") -> None:
        self.git("checkout", "-q", "-b", name, start)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A repository with the driver and one record on main."""
    repository = Repository(tmp_path_factory.mktemp("git") / "repository")
    repository.store.add([small_entry(0, workload=0)])
    repository.commit()
    return repository


@pytest.fixture
def repository(installed: Repository) -> Repository:
    """The same, its branches and changes of earlier tests gone."""
    root = installed.git("rev-list", "--max-parents=0", "--all").split()[0]
    installed.git("checkout", "-q", "-f", "--detach", root)
    for branch in installed.git("for-each-ref", "--format=%(refname:short)", "refs/heads").split():
        installed.git("branch", "-q", "-D", branch)
    installed.git("checkout", "-q", "-b", "main")
    return installed


def check(repository: Repository, wanted: Sequence[Entry]) -> None:
    """All wanted records, each on its own workload, and nothing to complain about."""
    store = repository.store
    assert not store.problems
    found = {entry.record_id: entry for entry in store.entries}
    assert found == {entry.record_id: entry for entry in wanted}


ONE = [small_entry(1, workload=1, shape="b1_q64_kv64"), small_entry(2, workload=2)]
OTHER = [small_entry(3, workload=3, shape="b4_q64_kv64"), small_entry(4, workload=0)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ONE, OTHER),
        (OTHER, ONE),
        (ONE[:1], [small_entry(5, workload=1, shape="b1_q64_kv64")]),  # the same shape
        ([small_entry(1, workload=0)], [small_entry(1, workload=1)]),  # equal traces
        ([small_entry(6)], [small_entry(7)]),  # only records change, no workloads
        ([small_entry(6, workload=6)], [small_entry(7)]),  # workloads on one side
        (ONE, [*ONE, *OTHER]),
    ],
)  # fmt: skip
def test_branches_that_tuned_merge_without_conflict(repository, one, other):
    base = repository.store.entries
    repository.branch("one")
    repository.store.add(one)
    repository.commit()
    repository.branch("other")
    repository.store.add(other)
    repository.commit()
    repository.git("merge", "-q", "one", "-m", "merge")
    check(repository, [*base, *one, *other])


def test_a_rebase_and_a_second_merge(repository):
    base = repository.store.entries
    repository.branch("one")
    repository.store.add(ONE)
    repository.commit()
    repository.branch("other")
    for entry in OTHER:
        repository.store.add([entry])
        repository.commit()
    repository.git("rebase", "-q", "one")
    check(repository, [*base, *ONE, *OTHER])
    repository.branch("third")
    repository.store.add([small_entry(9, workload=9)])
    repository.commit()
    repository.git("merge", "-q", "other", "-m", "merge")
    check(repository, [*base, *ONE, *OTHER, small_entry(9, workload=9)])


def test_of_a_record_that_both_measured_again_the_later_stays(repository):
    early = small_entry(0, secs=4e-3, date="2026-11-23")
    late = small_entry(0, secs=5e-3, date="2026-11-24")
    repository.branch("one")
    repository.store.add([late])
    repository.commit()
    repository.branch("other")
    repository.store.add([early])
    repository.commit()
    repository.git("merge", "-q", "one", "-m", "merge")
    check(repository, [late])


def test_what_one_branch_pruned_stays_away_and_what_the_other_tuned_stays(repository):
    slow, fast, new = small_entry(1, secs=9e-3), small_entry(2, secs=1e-3), small_entry(3, 3)
    repository.store.add([slow, fast])
    repository.commit()
    repository.branch("one")
    repository.store.prune(1)
    repository.commit()
    repository.branch("other")
    repository.store.add([new])
    repository.commit()
    repository.git("merge", "-q", "one", "-m", "merge")
    assert [entry.record_id for entry in repository.store.entries] == [
        fast.record_id, new.record_id,
    ]  # fmt: skip
    assert not repository.store.problems


def test_without_history_nothing_is_lost_and_repair_links_it_anew(tmp_path):
    """A driver that sees the files alone: what it writes is found by id, then repaired."""
    sides = []
    for name, entries in (("base", []), ("ours", ONE), ("theirs", OTHER)):
        store = RecordStore.open(tmp_path / name, KEY, create=True)
        store.add([small_entry(0), *entries])
        sides.append(store.folder)
    merged = tmp_path / "merged" / str(KEY)
    merged.mkdir(parents=True)
    for name in ("workloads.json", "provenance.json", "records.json"):
        texts = [(folder / name).read_bytes() for folder in sides]
        (merged / name).write_bytes(merge_versions(f"no/such/{KEY}/{name}", *texts))
    store = RecordStore.open(tmp_path / "merged", KEY)
    wanted = union([small_entry(0)], ONE, OTHER)
    assert {entry.record_id: entry for entry in store.entries} == wanted
    assert all("found by its id" in problem.reason for problem in store.problems)
    assert store.problems
    store.change(lambda entries: entries)
    store = RecordStore.open(tmp_path / "merged", KEY)
    assert {entry.record_id: entry for entry in store.entries} == wanted
    assert not store.problems


def test_a_side_that_is_not_intact_is_merged_line_by_line():
    whole = {"workloads.json": b"", "provenance.json": b"", "records.json": b""}
    assert merge_linked(str(KEY), whole, whole, {**whole, "records.json": b"torn"}) is None
    assert merge_linked(str(KEY), whole, whole, None) is None
    torn = merge_versions(f"no/such/{KEY}/records.json", b"", b"[0,\n", b"a\n\nb")
    assert torn == b"[0,\na\nb\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [({"tvm": "0.26.1"}, "0.26.1"), ({"target": "llvm-x-1c"}, "llvm-x-1c"), (None, "theirs")],
)
def test_sides_that_do_not_fit_are_left_to_a_person(repository, change, message):
    repository.branch("one")
    path = repository.store.folder / "provenance.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, **change}) if change else "<<<<<<<")
    repository.commit()
    repository.branch("other")
    repository.store.add(ONE)
    repository.commit()
    printed = repository.git("merge", "one", "-m", "merge", ok=False)
    assert "CONFLICT" in printed
    assert message in printed
    assert "prefilltune: " in printed


def test_another_file_is_refused():
    with pytest.raises(UnmergeableError, match="gitattributes"):
        merge_versions("database/records/notes.txt", b"", b"", b"")


KEYS = st.dictionaries(st.sampled_from("abc"), st.integers(0, 2))


@given(KEYS, KEYS, KEYS)
def test_three_way_merges_take_every_change(base, ours, theirs):
    merged = three_way(base, ours, theirs, choose=max)
    assert merged == three_way(base, theirs, ours, choose=max)
    assert three_way(base, ours, base, choose=max) == ours
    assert three_way(base, ours, ours, choose=max) == ours
    for key in {*ours, *theirs}:
        changed = {side.get(key) for side in (ours, theirs)} - {base.get(key)}
        assert merged.get(key) in (changed or {base.get(key)})
        if changed - {None}:
            assert merged[key] == max(changed - {None})
