"""Folders that a process needs only while it lives."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefilltune.database import scratch
from prefilltune.database.scratch import ScratchFolder, remove_abandoned, remove_own


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The system's temporary folder, empty."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def _abandoned(folder: Path) -> Path:
    """A folder of a process that was killed."""
    script = """
import os
from prefilltune.database.scratch import ScratchFolder
folder = ScratchFolder()
(folder.path / "kernel.so").write_text("...")
print(folder.path, flush=True)
os.kill(os.getpid(), 9)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(folder)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return Path(done.stdout.strip())


def test_it_is_removed_with_all_in_it(temporary: Path) -> None:
    with ScratchFolder() as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "file").touch()
        assert folder.parent == temporary
        assert f"-{os.getpid()}-" in folder.name
    assert not list(temporary.iterdir())


def test_what_a_killed_process_left_is_removed_by_the_next(temporary: Path) -> None:
    left = _abandoned(temporary)
    assert left.is_dir()
    with ScratchFolder() as folder:
        assert list(temporary.iterdir()) == [folder]


def test_the_folders_of_the_living_and_those_of_others_stay(temporary: Path) -> None:
    alike = ["prefilltune-work", "prefilltune-1-night", "prefilltune-12-0123456789ab-x"]
    for name in alike:
        (temporary / name).mkdir()
    link = temporary / "prefilltune-7-0123abcd-link"
    link.symlink_to(temporary / alike[0])
    with ScratchFolder() as one, ScratchFolder() as other:
        remove_abandoned()
        assert one.is_dir()
        assert other.is_dir()
    assert sorted(path.name for path in temporary.iterdir()) == sorted([*alike, link.name])


def test_a_folder_that_is_taken_for_abandoned_as_it_is_made_is_made_anew(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, made = tempfile.mkdtemp, []

    def removed_at_first(prefix: str) -> str:
        made.append(real(prefix=prefix))
        if len(made) == 1:
            remove_abandoned()
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", removed_at_first)
    with ScratchFolder() as folder:
        assert [str(folder)] == made[1:]
        assert folder.is_dir()


def test_many_threads_take_nothing_from_one_another() -> None:
    missing: list[Path] = []

    def work() -> None:
        for _ in range(20):
            with ScratchFolder() as folder:
                if not folder.is_dir():
                    missing.append(folder)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not missing


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_without_locks_nothing_is_taken_for_abandoned(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    left = _abandoned(temporary)
    monkeypatch.setattr(fcntl, "flock", refuse)
    with ScratchFolder() as folder:
        assert folder.is_dir()
    assert list(temporary.iterdir()) == [left]


def test_a_process_that_ends_removes_its_own(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = ScratchFolder()
    monkeypatch.setattr(scratch, "_PROCESS", "0123abcd")  # the same number, in another container
    other = ScratchFolder()
    remove_own()
    assert list(temporary.iterdir()) == [mine.path]
    mine.remove()
    other.remove()
