"""The process that searches for a plan: reads assignments, reports how they stand and end.

What it says are pickles on its stdout: states of a search, and at last its result or an error of
this package. SIGINT ends the search that runs early, and all that come later.
"""

from __future__ import annotations

import importlib
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from ...database.orphans import end_with_parent
from ...workloads import PrefilltuneError
from ..ending import Signals, Wish
from ..measuring.cpu import tvm_environment
from ..measuring.pickles import read_pickle, write_pickle
from ..measuring.tvm_import import import_tvm_without_torch
from ..measuring.worker import Worker

if TYPE_CHECKING:
    from ..devices.pool import Pool
    from ..search.tune import TuneResult
    from .searcher import Allotment, Assignment

_END = object()


class Reports:
    """Writes what any thread reports, from a thread of its own: no interrupt tears a message."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def __call__(self, message: Any) -> None:
        self._waiting.put(message)

    def close(self) -> None:
        """Write what is left."""
        self._waiting.put(_END)
        self._thread.join()

    def _write(self) -> None:
        try:
            while (message := self._waiting.get()) is not _END:
                write_pickle(self._stream, message)
        except BrokenPipeError:
            os._exit(1)  # nobody is left to search for


class AllottedSearches:
    """Searches with the devices and the builders of one allotment; a context manager."""

    def __init__(self, allotment: Allotment, reports: Reports, wish: Wish) -> None:
        self._allotment = allotment
        self._reports = reports
        self._wish = wish
        self._stack = ExitStack()
        self._builders: list[Worker] = []
        self._pool: Pool | None = None

    def __enter__(self) -> AllottedSearches:
        for _ in range(self._allotment.builders):
            self._builders.append(self._stack.enter_context(Worker(tvm_environment(1))))
            self._builders[-1].start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def result(self, assignment: Assignment) -> TuneResult | PrefilltuneError:
        """What came of a search."""
        from ..search.tune import tune_case

        try:
            return tune_case(
                assignment.case,
                assignment.target,
                assignment.spaces,
                assignment.limit,
                assignment.root,
                assignment.keep,
                self._reports,
                self._opened_pool(),
                self._builders,
                self._wish,
            )
        except PrefilltuneError as error:
            return error

    def _opened_pool(self) -> Pool | None:
        from .sharing import open_pool

        if self._pool is None:
            pool = open_pool(self._allotment.devices, self._allotment.wanted)
            self._pool = self._stack.enter_context(pool) if pool is not None else None
        return self._pool


def main() -> None:
    """Search until stdin closes; whatever is printed goes to stderr."""
    asked, reports = _messages(sys.stdin.buffer), Reports(os.fdopen(os.dup(1), "wb"))
    os.dup2(2, 1)
    end_with_parent()
    wish = Wish()
    with Signals({signal.SIGINT}, lambda _: wish.make()):
        # The parent starts this process with SIGINT blocked, so that none comes before this line.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        import_tvm_without_torch()
        allotment = next(asked, None)  # the first message; all others are assignments
        if allotment is not None:
            with AllottedSearches(allotment, reports, wish) as searches:
                for assignment in asked:
                    reports(searches.result(assignment))
        reports.close()


def _messages(stream: Any) -> Iterator[Any]:
    while True:
        try:
            yield read_pickle(stream)
        except EOFError:
            return


if __name__ == "__main__":
    # What is pickled must be of the importable module.
    importlib.import_module(__spec__.name).main()
