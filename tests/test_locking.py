"""One process at a time: on file systems with locks, and on those that have none."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from database_fixtures import KEY, filled, small_entry
from filelock import FileLock, SoftFileLock

from prefilltune.database import NotWritableError, RecordStore, locking
from prefilltune.database.durable import sync
from prefilltune.database.locking import changing, file_lock, is_locked
from prefilltune.database.scratch import ScratchFolder
from prefilltune.tuning.errors import PlanRunningError
from prefilltune.tuning.plans.ledger import Ledger, is_running, ledger_path, plan_lock

NO_LOCKS = ["ENOLCK", "ENOSYS", "ENOTSUP", "EOPNOTSUPP", "EINVAL"]


def refuse_locks(patch: pytest.MonkeyPatch, name: str) -> None:
    """Answer as a file system does that has no locks."""
    code = getattr(errno, name)

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    patch.setattr(fcntl, "flock", flock)


@pytest.fixture(params=NO_LOCKS)
def without_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_locks(monkeypatch, request.param)
    monkeypatch.setattr(locking, "LOCK_TIMEOUT_SECS", 0.2)


@pytest.mark.usefixtures("without_locks")
def test_without_locks_everything_is_written_and_guarded(tmp_path: Path) -> None:
    store = filled(tmp_path, [small_entry(1)])
    store.add([small_entry(2)])
    assert len(RecordStore.open(tmp_path, KEY).entries) == 2
    with (
        changing(store.folder, store.folder / ".lock"),
        pytest.raises(NotWritableError, match=r"locked by .*delete .*\.lock\.held if there"),
    ):
        store.add([small_entry(3)])
    store.add([small_entry(3)])
    ledger = Ledger(ledger_path(tmp_path, "night"))
    with plan_lock(tmp_path, "night"):
        assert is_running(ledger)
        with pytest.raises(PlanRunningError), plan_lock(tmp_path, "night"):
            pass
    assert not is_running(ledger)
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".held")]
    with ScratchFolder() as folder:
        (folder / "file").touch()
    assert not folder.exists()


def test_a_disk_that_fails_is_no_disk_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path, [small_entry(1)])
    refuse_locks(monkeypatch, "EIO")
    with pytest.raises(NotWritableError, match="Input/output error"):
        store.add([small_entry(2)])


def test_the_marker_of_a_killed_process_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    script = (
        "import sys; from filelock import SoftFileLock;"
        "lock = SoftFileLock(sys.argv[1]); lock.acquire();"
        "print(); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, f"{path}.held"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout is not None
    holder.stdout.readline()
    refuse_locks(monkeypatch, "ENOLCK")
    path.touch()
    assert is_locked(path)
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with file_lock(path, 10):
        assert (tmp_path / "lock.held").exists()


def test_a_lock_of_the_system_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(file_lock(tmp_path / "lock", 0), FileLock)
    refuse_locks(monkeypatch, "ENOLCK")
    assert isinstance(file_lock(tmp_path / "lock", 0), SoftFileLock)


@pytest.mark.parametrize("name", ["EINVAL", "ENOSYS", "ENOTSUP"])
def test_a_file_system_that_cannot_sync(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(getattr(errno, name), "cannot sync")

    monkeypatch.setattr(os, "fsync", fsync)
    store = filled(tmp_path, [small_entry(1)])
    assert len(RecordStore.open(tmp_path, KEY).entries) == 1
    monkeypatch.undo()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(NotWritableError, match="full"):
        store.add([small_entry(2)])
    with pytest.raises(OSError, match="full"):
        sync(0)
