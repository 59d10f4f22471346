"""Child processes that end when their parent is gone, in whatever way it ended.

A parent that is killed ends none of its children. Each of ours therefore has a pipe of its parent's
as its stdin, which closes with the parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
import time

# For a child that is idle: it sees by itself that nobody asks it any more, and returns.
_PATIENCE = 1.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent() -> None:
    """Have this process killed soon after its stdin closes, whatever it is doing then.

    With it goes its process group, such as a compiler's linker, if it leads one.
    """
    if hasattr(select, "poll"):
        threading.Thread(target=_end_when_closed, name="end-with-parent", daemon=True).start()


def end_with_parent_thread() -> None:
    """Have Linux kill this process when the thread that started it ends.

    A child that is stopped runs no thread that could see its stdin close.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _end_when_closed() -> None:
    closed = select.poll()
    closed.register(0, 0)  # nothing but the end of the pipe: what it carries is for others to read
    closed.poll()
    time.sleep(_PATIENCE)
    with contextlib.suppress(OSError):
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)
