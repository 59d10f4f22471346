"""A child process that runs functions of this package, one at a time, and may die of them.

Requests and replies are pickles with a length in front, over the child's stdin and stdout. The
child ends when its stdin closes, even in the middle of a call, so none outlives its parent. TVM's
own worker pool starts new processes for every batch (each imports TVM again) and cannot tell a
crash from an exception.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...database import NotWritableError
from ...database.orphans import end_with_parent, end_with_parent_thread
from ..errors import WorkerFailedError
from ..killing import kill_with_group
from .pickles import read_pickle, read_pickle_until, write_pickle
from .tvm_import import import_tvm_without_torch

_START_TIMEOUT = 120.0
_TVM_ARGUMENT = "tvm"
_BOUND_ARGUMENT = "bound"


@dataclass(frozen=True)
class Outcome:
    """How a call in a worker ended.

    Parameters
    ----------
    status : str
        ``ok``, ``error`` (the function raised), ``crash`` (the process died) or ``timeout``; where
        the process may be out of reach also ``lost``, and ``cancelled`` for a call never made.
    value : object
        What the function returned; ``None`` unless ``ok``.
    detail : str
        The exception, the signal or the limit; empty when ``ok``.
    unwritable : NotWritableError, optional
        The exception, where the function could not write: no fault of what it was called with.
    """

    status: str
    value: Any = None
    detail: str = ""
    unwritable: NotWritableError | None = None


class Worker:
    """A child process kept alive from call to call, and replaced when it dies or hangs.

    Parameters
    ----------
    environment : Mapping[str, str], optional
        Variables added to the child's environment (thread counts must be there at its start).
    uses_tvm : bool
        Whether the child imports TVM (and hides PyTorch from it) as soon as it has started.
    frozen_when_idle : bool
        Whether the child is stopped between calls. The threads of TVM's, OpenMP's and OpenBLAS's
        pools go on spinning for up to a tenth of a second after their work, on the cores that the
        next process is being timed on.
    bound : bool
        Whether the child is killed as soon as the thread that started it ends (on Linux). A child
        that is frozen when idle always is.
    """

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        *,
        uses_tvm: bool = True,
        frozen_when_idle: bool = False,
        bound: bool = False,
    ) -> None:
        self._environment = {**os.environ, **(environment or {})}
        self._frozen_when_idle = frozen_when_idle
        self._arguments = [
            *([_TVM_ARGUMENT] if uses_tvm else []),
            *([_BOUND_ARGUMENT] if frozen_when_idle or bound else []),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._deadline = 0.0
        self._limit = 0.0

    def submit(self, function: Callable[..., Any], *args: Any, timeout: float) -> None:
        """Start ``function(*args)`` in the child.

        Parameters
        ----------
        function : Callable
            Of the top level of a module that the child can import.
        timeout : float
            Seconds until the child is killed.
        """
        self.start()
        self._await_ready()
        assert self._process is not None
        assert self._process.stdin is not None
        self._limit, self._deadline = timeout, time.monotonic() + timeout
        if self._frozen_when_idle:
            self._process.send_signal(signal.SIGCONT)
        # A child that died is noticed by `result`.
        with contextlib.suppress(BrokenPipeError):
            write_pickle(self._process.stdin, (function, args))

    def start(self) -> None:
        """Start the child if none is alive; its imports overlap with the caller's work.

        Raises
        ------
        WorkerFailedError
            If the system has no room for another process.
        """
        if self._process is not None and self._process.poll() is None:
            return
        self.close(kill=True)
        self._ready = False
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __spec__.name, *self._arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=self._environment,
                start_new_session=True,  # Ctrl-C reaches the parent alone, which ends its children
            )
        except OSError as error:
            raise WorkerFailedError(
                f"a worker process ({sys.executable}) cannot be started ({error.strerror}); end "
                "other processes, or allow more of them (`ulimit -u`), and run the same command "
                "again"
            ) from error

    def result(self) -> Outcome:
        """Wait for the end of the call that was submitted."""
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            reply = read_pickle_until(self._process.stdout, self._deadline)
        except TimeoutError:
            self.close(kill=True)
            return Outcome("timeout", detail=f"killed after {self._limit:g} s")
        except EOFError:
            code = self._process.wait()
            self.close(kill=True)
            return Outcome("crash", detail=_describe_exit(code))
        if self._frozen_when_idle:
            self._process.send_signal(signal.SIGSTOP)
            ended = os.WSTOPPED | os.WEXITED | os.WNOWAIT
            os.waitid(os.P_PID, self._process.pid, ended)  # it stops some time after the signal
        return reply

    def call(self, function: Callable[..., Any], *args: Any, timeout: float) -> Outcome:
        """``submit`` and ``result`` in one."""
        self.submit(function, *args, timeout=timeout)
        return self.result()

    def close(self, *, kill: bool = False) -> None:
        """End the child; a later call starts another one."""
        process, self._process = self._process, None
        if process is None:
            return
        if kill:
            _kill(process)
        elif self._frozen_when_idle:
            process.send_signal(signal.SIGCONT)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            _kill(process)
            process.wait()

    def restart(self) -> None:
        """Take a new child, whatever the last one suffered."""
        self.close(kill=True)
        self.start()

    @property
    def pid(self) -> int | None:
        """Of the child, if there is one."""
        return None if self._process is None else self._process.pid

    def resident_bytes(self) -> int:
        """Memory that the child holds, where the system tells; 0 if there is no child."""
        if self._process is None:
            return 0
        try:
            fields = Path(f"/proc/{self._process.pid}/statm").read_text().split()
        except OSError:
            return 0
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def abort(self) -> None:
        """Kill the child, from any thread; a call under way ends as a crash."""
        process = self._process
        if process is not None:
            _kill(process)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close(kill=exc[0] is not None)

    def _await_ready(self) -> None:
        """A child that cannot start is no candidate's fault."""
        if self._ready:
            return
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            read_pickle_until(self._process.stdout, time.monotonic() + _START_TIMEOUT)
        except (EOFError, TimeoutError) as error:
            self.close(kill=True)
            raise WorkerFailedError(
                f"a worker process ({sys.executable} -m {__spec__.name}) did not start; its own "
                "message is above; check that prefilltune is installed for this Python"
            ) from error
        self._ready = True


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a child and what it runs, such as a linker."""
    with contextlib.suppress(ProcessLookupError):
        if process.poll() is None:
            kill_with_group(process.pid)


def _describe_exit(code: int) -> str:
    if code < 0:
        return f"died of {signal.Signals(-code).name}"
    return f"exited with {code}"


def _serve() -> None:
    """Answer requests until stdin closes; whatever the functions print goes to stderr."""
    requests = sys.stdin.buffer
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    end_with_parent()
    if _BOUND_ARGUMENT in sys.argv[1:]:
        end_with_parent_thread()
    write_pickle(replies, Outcome("ok"))
    if _TVM_ARGUMENT in sys.argv[1:]:
        import_tvm_without_torch()
    while True:
        try:
            function, args = read_pickle(requests)
        except EOFError:
            return
        try:
            outcome = Outcome("ok", function(*args))
        except Exception as error:
            unwritable = error if isinstance(error, NotWritableError) else None
            outcome = Outcome("error", None, _last_lines(error), unwritable)
        write_pickle(replies, outcome)


def _last_lines(error: Exception) -> str:
    text = "".join(traceback.format_exception_only(type(error), error)).strip()
    return text if len(text) <= 4000 else f"{text[:1000]} ... {text[-2900:]}"


if __name__ == "__main__":
    # Run as a module, this file is `__main__`; replies must name the importable class instead.
    with contextlib.suppress(BrokenPipeError):  # the parent is gone: there is nobody to tell
        importlib.import_module(__spec__.name)._serve()
