"""Processes that tests start, and those that are left of them."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def hear_interrupts() -> None:
    """Shells have what they start in the background ignore Ctrl-C, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def processes_with(mark: str) -> list[str]:
    """Command lines of the living processes whose environment holds ``mark``."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_text())
        except OSError:
            continue
    return found


def is_alive(pid: int) -> bool:
    """Whether a process is there, and no zombie that nobody has waited for."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
