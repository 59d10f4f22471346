"""How processes end early: what signals lead to, and what is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import hear_interrupts, is_alive, processes_with

from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.build import build_library
from prefilltune.tuning.ending import Signals, Wish
from prefilltune.workloads import PrefillShape, PrefillSpec, plain_attention

#: Commands that start a child process of their own and a scratch folder, and then do one thing.
_SCRIPT = """
import subprocess, sys, threading, time
from prefilltune.database.scratch import ScratchFolder, remove_own
from prefilltune.tuning.ending import Ending

def callback():  # as of TVM's: C++ cannot unwind what is raised here
    try:
        ready()
        time.sleep(600)
    except BaseException:
        print("raised", flush=True)

with Ending() as ending:
    ending.advice = "go on"
    ending.at_last(remove_own)
    folder = ScratchFolder()
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    child = subprocess.Popen(sleep, start_new_session=True)
    ready = lambda: print(child.pid, folder.path, flush=True)
    {doing}
    print("on its own", flush=True)
"""


class _Run:
    """A process that is in the midst of something, and what it started."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        pid, folder = process.stdout.readline().split()
        self.child, self.folder = int(pid), Path(folder)

    def ended(self) -> tuple[int, str, str]:
        """Exit code and what was said, once it has ended and nothing is left of it."""
        out, err = self.process.communicate(timeout=60)
        assert not is_alive(self.child)
        assert not self.folder.exists()
        return self.process.returncode, out, err


@contextmanager
def _running(tmp_path: Path, doing: str) -> Iterator[_Run]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", _SCRIPT.format(doing=doing)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=hear_interrupts,
    ) as process:
        try:
            yield _Run(process)
        finally:
            process.kill()


_LINE = "prefilltune: interrupted; go on\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_process_and_all_that_it_started(tmp_path: Path, number: int) -> None:
    with _running(tmp_path, "callback()") as run:
        run.process.send_signal(number)
        assert run.ended() == (128 + number, "", _LINE)


@pytest.mark.parametrize(
    ("kept", "line"),
    [
        ("lambda: '2 kept'", "prefilltune: interrupted; 2 kept; go on\n"),
        ("str", _LINE),
        ("lambda: 1 / 0", _LINE),
    ],
)
def test_the_last_line_says_what_was_kept(tmp_path: Path, kept: str, line: str) -> None:
    with _running(tmp_path, f"ending.kept = {kept}; callback()") as run:
        run.process.send_signal(signal.SIGINT)
        assert run.ended() == (130, "", line)


def test_work_that_is_waited_for_ends_by_itself(tmp_path: Path) -> None:
    doing = "with ending.patient() as wish: ready(); wish.wait(600)"
    with _running(tmp_path, doing) as run:
        run.process.send_signal(signal.SIGTERM)
        assert run.ended() == (143, "on its own\n", _LINE)


def test_work_that_is_waited_for_in_vain_is_ended(tmp_path: Path) -> None:
    doing = "import prefilltune.tuning.ending as e; e._PATIENCE = 0.2\n"
    doing += "    with ending.patient(): callback()"
    with _running(tmp_path, doing) as run:
        run.process.send_signal(signal.SIGINT)
        assert run.ended() == (130, "", _LINE)


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    """Here all the same: the first would be waited for without an end."""
    doing = "import prefilltune.tuning.ending as e; e._PATIENCE = 600\n"
    doing += "    with ending.patient(): callback()"
    with _running(tmp_path, doing) as run:
        run.process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        run.process.send_signal(signal.SIGTERM)
        assert run.ended() == (130, "", _LINE)


def test_the_main_thread_makes_nothing_of_the_death_of_its_children(tmp_path: Path) -> None:
    doing = "ready(); child.wait(); print('the child died: a fault', flush=True)"
    with _running(tmp_path, doing) as run:
        run.process.send_signal(signal.SIGTERM)
        assert run.ended() == (143, "", _LINE)


def test_no_thread_starts_anew_what_is_killed(tmp_path: Path) -> None:
    again = "[subprocess.Popen(sleep).wait() for _ in range(1000)]"
    doing = f"threading.Thread(target=lambda: {again}, daemon=True).start(); callback()"
    with _running(tmp_path, doing) as run:
        time.sleep(0.2)
        run.process.send_signal(signal.SIGTERM)
        assert run.ended() == (143, "", _LINE)  # all pipes are closed, thus by all processes
        assert not processes_with(str(tmp_path))


def test_a_process_that_nobody_reads_ends_all_the_same(tmp_path: Path) -> None:
    doing = "threading.Thread(target=lambda: sys.stderr.write('x' * 200_000), daemon=True).start()"
    with _running(tmp_path, f"{doing}; time.sleep(0.2); callback()") as run:
        run.process.send_signal(signal.SIGTERM)
        assert run.process.wait(60) == 143


def test_signals_that_a_process_was_started_to_ignore_stay_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    heard: list[int] = []
    try:
        with Signals([signal.SIGHUP, signal.SIGUSR1], heard.append):
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGUSR1)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert heard == [signal.SIGUSR1]


def test_signals_are_heard_while_the_main_thread_is_elsewhere() -> None:
    heard = threading.Event()
    with Signals([signal.SIGUSR1], lambda _: heard.set()):
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        assert heard.wait(60)


def test_a_wish_is_told_to_whoever_listens_and_to_whoever_comes_later() -> None:
    wish, told = Wish(), []
    with wish.told(lambda: told.append("before")):
        assert not wish.is_made
        assert not wish.wait(0)
        wish.make()
        assert told == ["before"]
    with wish.told(lambda: told.append("later")):
        assert told == ["before", "later"]
    wish.make()
    assert told == ["before", "later"]
    assert wish.is_made


_BUSY = """
import os, sys, time
from prefilltune.tuning.measuring.worker import Worker
worker = Worker(uses_tvm=False)
print(worker.call(os.getpid, timeout=120).value, flush=True)
worker.submit({call}, timeout=600)
os.kill(os.getpid(), 9)
"""


def test_a_busy_worker_ends_with_a_parent_that_is_killed_and_so_does_what_it_started() -> None:
    script = "import subprocess, sys; print(subprocess.Popen(['sleep', '600']).pid, file=sys.stderr"
    call = f"exec, {script + ', flush=True); import time; time.sleep(600)'!r}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", _BUSY.format(call=call)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as parent:
        assert parent.stdout is not None
        assert parent.stderr is not None
        pids = [int(parent.stdout.readline()), int(parent.stderr.readline())]
    deadline = time.monotonic() + 60
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pids[1], signal.SIGKILL)


def test_a_compiler_that_is_killed_leaves_its_files_in_a_scratch_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text(f'#!/bin/sh\necho "$TMPDIR" > {tmp_path}/told\nexec g++ "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    before, target = os.environ.get("TMPDIR"), resolve_target("llvm", 1).target
    module = plain_attention(PrefillSpec(2, 1, 16, "float32"), PrefillShape(2, 24))
    build_library(module, target, str(tmp_path / "kernel.so"))
    told = (tmp_path / "told").read_text().strip()
    assert f"prefilltune-{os.getpid()}-" in told
    assert not Path(told).exists()
    assert os.environ.get("TMPDIR") == before


@pytest.mark.slow
def test_searches_end_whenever_a_signal_comes(tmp_path: Path) -> None:
    """A few moments; benchmarks/endings.py tries many, of all commands."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    mark = f"PREFILLTUNE_TEST={tmp_path}"
    environment = {**os.environ, "TMPDIR": str(temporary), "PREFILLTUNE_TEST": str(tmp_path)}
    command = [sys.executable, "-m", "prefilltune.tuning", "tune", "--heads", "2/1x16", "--threads"]
    command += ["1", "--shape", "2x24", "--budget", "10m", "--database"]
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGINT, signal.SIGTERM]
    searches = [
        subprocess.Popen(
            [*command, str(tmp_path / str(index))],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            preexec_fn=hear_interrupts,
        )
        for index in range(len(numbers))
    ]
    for process, number in zip(searches, numbers, strict=True):
        time.sleep(1.7)
        process.send_signal(number)
    for process, number in zip(searches, numbers, strict=True):
        _, said = process.communicate(timeout=120)
        assert process.returncode == 128 + number, said
        assert said.count("prefilltune: interrupted; run the same command again") == 1
    assert not list(temporary.iterdir())
    assert not processes_with(mark)
