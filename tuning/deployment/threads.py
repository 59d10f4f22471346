"""The threads that a library for a CPU brings along, in the place of TVM's."""

from __future__ import annotations

from pathlib import Path

_SOURCE = Path(__file__).with_name("threads.cc")
_TUNED = "PREFILLTUNE_TUNED_THREADS"


def threads_source(tuned: int) -> str:
    """C++ that is linked into a library, whose kernels run on threads of its own then.

    Parameters
    ----------
    tuned : int
        Threads that the kernels were tuned with; no more are taken unless someone says so.
    """
    return f"#define {_TUNED} {tuned}\n{_SOURCE.read_text(encoding='utf-8')}"
