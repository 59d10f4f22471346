"""Killing processes, and with them what they had started."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Sequence

import psutil

_DEATH_TIMEOUT = 0.5


def processes_below(pid: int) -> list[psutil.Process]:
    """Those that a process started, and those that they started: parents before their children."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def kill_all(processes: Sequence[psutil.Process]) -> None:
    """Kill processes in their order, with the groups that they lead, and wait for their deaths."""
    alive = [each for each in processes if each.is_running()]
    for each in alive:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill_with_group(each.pid)
    psutil.wait_procs(alive, _DEATH_TIMEOUT)


def kill_with_group(pid: int) -> None:
    """Kill a process, and all of its process group if it leads one, such as a compiler's linker.

    Raises
    ------
    ProcessLookupError
        If there is no such process.
    """
    if os.getpgid(pid) == pid:
        os.killpg(pid, signal.SIGKILL)
    else:
        os.kill(pid, signal.SIGKILL)
