"""Keeping server processes alive, and leaving none behind."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from ...database.scratch import ScratchFolder
from ..ending import Wish
from ..errors import ServingError

_START_TIMEOUT = 120.0
_POLL = 0.2
# A server that dies is started again after a pause, twice as long each time, up to the longest.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
# The pause is short again after a server that lived longer than this.
_SOUND = 60.0


@dataclass(frozen=True)
class Command:
    """A server to keep alive.

    Parameters
    ----------
    name : str
        For people.
    module : str
        Run with ``python -m``; prints its port once it listens.
    arguments : Sequence[str]
        Of the module.
    environment : Mapping[str, str]
        Added to this process's own.
    """

    name: str
    module: str
    arguments: Sequence[str]
    environment: Mapping[str, str]


class Server:
    """A process of a command and of its session processes, which are all one process group.

    Parameters
    ----------
    command : Command
        What to run.
    tell : Callable[[str], None]
        Given a line when the server starts or dies.
    """

    def __init__(self, command: Command, tell: Callable[[str], None]) -> None:
        self._command = command
        self._tell = tell
        self._process: subprocess.Popen[str] | None = None
        self._folder = ScratchFolder()
        self._pause = _FIRST_PAUSE
        self._started = self._due = 0.0

    def start(self) -> None:
        """Start the server and wait until it listens.

        Raises
        ------
        ServingError
            If it does not get that far.
        """
        command = self._command
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", command.module, *command.arguments],
            env={**os.environ, **command.environment, "TMPDIR": str(self._folder.path)},
            stdin=subprocess.PIPE,  # closes with this process, and so ends that one
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        port = _first_line(self._process)
        if not port:
            self._kill()
            raise ServingError(
                f"{command.name} did not start; its own message is above: choose another --port if "
                "that one is in use, and a --host that is this machine's"
            )
        self._tell(f"{command.name} listens on port {port}")

    def restart_if_dead(self) -> None:
        """Start the server again some time after it died."""
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                return
            self._kill()
            if time.monotonic() - self._started > _SOUND:
                self._pause = _FIRST_PAUSE
            self._tell(f"{self._command.name} ended with {code}; again in {self._pause:g} s")
            self._due = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        elif time.monotonic() >= self._due:
            try:
                self.start()
            except ServingError:
                self._due = time.monotonic() + self._pause
                self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc: object) -> None:
        self._kill()
        self._folder.remove()


def supervise(commands: Sequence[Command], tell: Callable[[str], None], wish: Wish) -> None:
    """Run servers, starting anew what dies, until it is wished that this ends.

    Every server and what it had started is dead then.

    Raises
    ------
    ServingError
        If one does not start at all.
    """
    with ExitStack() as stack:
        servers = [stack.enter_context(Server(command, tell)) for command in commands]
        for server in servers:
            server.start()  # one after another: two must not take the same port
        while not wish.wait(_POLL):
            for server in servers:
                server.restart_if_dead()


def _first_line(process: subprocess.Popen[str]) -> str:
    """What a server says first; empty if it ends or takes too long."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        ready = selector.select(_START_TIMEOUT)
    return process.stdout.readline().strip() if ready else ""
