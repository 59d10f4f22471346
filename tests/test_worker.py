"""Worker processes: every way a call can end, and that none is left behind."""

from __future__ import annotations

import errno
import os
import posix
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prefilltune.tuning.errors import WorkerFailedError
from prefilltune.tuning.measuring.worker import Worker


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_returns_a_value_from_one_lasting_child() -> None:
    with Worker(uses_tvm=False) as worker:
        first = worker.call(os.getpid, timeout=20)
        second = worker.call(os.getpid, timeout=20)
    assert first.status == "ok"
    assert first.value == second.value != os.getpid()


def test_the_environment_reaches_the_child() -> None:
    with Worker({"TVM_NUM_THREADS": "7"}, uses_tvm=False) as worker:
        assert worker.call(os.getenv, "TVM_NUM_THREADS", timeout=20).value == "7"


def test_an_exception_is_an_outcome_and_the_child_lives_on() -> None:
    with Worker(uses_tvm=False) as worker:
        before = worker.call(os.getpid, timeout=20).value
        failed = worker.call(os.listdir, "/no/such/folder", timeout=20)
        assert worker.call(os.getpid, timeout=20).value == before
    assert failed.status == "error"
    assert "/no/such/folder" in failed.detail


def test_a_crash_is_named_and_the_next_call_has_a_new_child() -> None:
    with Worker(uses_tvm=False) as worker:
        before = worker.call(os.getpid, timeout=20).value
        crashed = worker.call(posix.abort, timeout=20)
        after = worker.call(os.getpid, timeout=20).value
    assert (crashed.status, crashed.detail) == ("crash", "died of SIGABRT")
    assert after != before


def test_a_hang_is_killed() -> None:
    with Worker(uses_tvm=False) as worker:
        pid = worker.call(os.getpid, timeout=20).value
        assert worker.call(time.sleep, 600, timeout=0.2).status == "timeout"
        assert not _alive(pid)
        assert worker.call(os.getpid, timeout=20).status == "ok"


def test_large_values_and_output_on_stdout_do_not_confuse_the_pipe() -> None:
    with Worker(uses_tvm=False) as worker:
        assert worker.call(print, "on stdout", timeout=20).status == "ok"
        assert len(worker.call(bytes, 5_000_000, timeout=20).value) == 5_000_000


def test_a_frozen_worker_rests_between_calls_and_ends_like_any_other() -> None:
    with Worker(uses_tvm=False, frozen_when_idle=True) as worker:
        pid = worker.call(os.getpid, timeout=20).value
        assert _state(pid) == "T"
        assert worker.call(os.getpid, timeout=20).value == pid
    assert not _alive(pid)


def test_a_frozen_worker_dies_with_its_parent() -> None:
    script = """
import os
from prefilltune.tuning.measuring.worker import Worker
worker = Worker(uses_tvm=False, frozen_when_idle=True)
print(worker.call(os.getpid, timeout=20).value, flush=True)
os.kill(os.getpid(), 9)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False
    )
    deadline = time.monotonic() + 20
    while _alive(int(done.stdout)) and _state(int(done.stdout)) != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _state(pid: int) -> str:
    """Of a process, as in ps: R, S, T (stopped), Z, ..."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_close_ends_the_child() -> None:
    worker = Worker(uses_tvm=False)
    pid = worker.call(os.getpid, timeout=20).value
    worker.close()
    assert not _alive(pid)


def test_a_child_that_cannot_start_is_no_candidates_fault(tmp_path) -> None:
    (tmp_path / "pickle.py").write_text("raise RuntimeError('broken installation')")
    with (
        Worker({"PYTHONPATH": str(tmp_path)}, uses_tvm=False) as worker,
        pytest.raises(WorkerFailedError, match="did not start"),
    ):
        worker.call(os.getpid, timeout=20)


def test_a_child_for_which_there_is_no_room_is_an_error_that_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(subprocess, "Popen", refuse)
    with Worker(uses_tvm=False) as worker, pytest.raises(WorkerFailedError, match="temporarily"):
        worker.start()
