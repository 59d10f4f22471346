"""The processes that build and sample for a search, and what is done when one misbehaves."""

from __future__ import annotations

import itertools
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, TypeVar

from ...database.scratch import ScratchFolder
from ...database.writing import OTHER_TMPDIR, require_room
from ..building.build import build_library
from ..measuring.cpu import tvm_environment
from ..measuring.worker import Outcome, Worker
from ..target import ResolvedTarget, usable_cores

# A process that has come to hold more is replaced: what a compiler leaks adds up over a night.
_MOST_BYTES = 4 << 30

#: Path of a library, and how its build ended.
Built = tuple[str, Outcome]
_T = TypeVar("_T")


class BuilderProcess(Protocol):
    """A process that builds libraries, one at a time; a worker is one."""

    def call(self, function: Callable[..., Any], *args: Any, timeout: float) -> Outcome:
        """Call :func:`.build_library` or :func:`.sample_arm`."""
        ...

    def resident_bytes(self) -> int:
        """Memory that it holds."""
        ...

    def restart(self) -> None:
        """Take a new process."""
        ...


@contextmanager
def local_builders() -> Iterator[list[Worker]]:
    """One builder for each core, for one search after the other."""
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(tvm_environment(1))) for _ in range(usable_cores())]
        for worker in workers:
            worker.start()
        yield workers


class Builders:
    """Builds and samples side by side; a context manager, at whose end what was built goes.

    Parameters
    ----------
    target : ResolvedTarget
        What is built for.
    stopping : threading.Event
        While it is set, nothing is begun: calls end as ``cancelled``.
    processes : Sequence[BuilderProcess], optional
        Started and closed by the caller; one worker for each core when absent.
    """

    def __init__(
        self,
        target: ResolvedTarget,
        stopping: threading.Event,
        processes: Sequence[BuilderProcess] | None = None,
    ) -> None:
        self.faults: Counter[str] = Counter()
        # Of the cores of this machine, whoever gives fewer builders wants the rest for others.
        self.cores = min(usable_cores(), len(processes) if processes else usable_cores())
        self._target = target
        self._stopping = stopping
        self._given = processes
        self._idle: queue.Queue[BuilderProcess] = queue.Queue()
        self._numbers = itertools.count()
        self._stack = ExitStack()

    def __enter__(self) -> Builders:
        self._folder = self._stack.enter_context(ScratchFolder())
        for process in self._given or self._stack.enter_context(local_builders()):
            self._idle.put(process)
        self._threads = self._stack.enter_context(ThreadPoolExecutor(self._idle.qsize()))
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def submit(self, function: Callable[..., _T], *args: Any) -> Future[_T]:
        """Have a thread call :meth:`build` or :meth:`call` once a process is free."""
        return self._threads.submit(function, *args)

    def build(self, module: Any, timeout: float) -> Built:
        """Build a scheduled module; the library is there until the end, unless deleted before.

        Parameters
        ----------
        module : tvm.IRModule or PickledModule
            Scheduled.
        timeout : float
            Seconds that it may take.

        Raises
        ------
        NotWritableError
            If there is no room for libraries; then it is not the candidate's fault.
        """
        path = str(self._folder / f"{next(self._numbers)}.so")
        asked = (build_library, module, self._target.target, path)
        with self._process() as process:
            outcome = self._call(process, *asked, timeout=timeout)
            if outcome.status == "crash":  # perhaps for another reason than the candidate
                outcome = process.call(*asked, timeout=timeout)
                if outcome.status != "crash":
                    self.faults["builder died"] += 1
            if process.resident_bytes() > _MOST_BYTES:
                process.restart()
                self.faults["builder leaked"] += 1
        if outcome.unwritable is not None:
            raise outcome.unwritable
        if outcome.status == "crash":
            require_room(self._folder, or_else=OTHER_TMPDIR)  # LLVM dies where it finds none
        return path, outcome

    def call(self, function: Callable[..., Any], *args: Any, timeout: float) -> Outcome:
        """Call a function in a process, once."""
        with self._process() as process:
            outcome = self._call(process, function, *args, timeout=timeout)
        if outcome.status == "crash":
            self.faults["builder died"] += 1
        return outcome

    def _call(
        self, process: BuilderProcess, function: Callable[..., Any], *args: Any, timeout: float
    ) -> Outcome:
        if self._stopping.is_set():
            return Outcome("cancelled", detail="the search ended first")
        return process.call(function, *args, timeout=timeout)

    @contextmanager
    def _process(self) -> Iterator[BuilderProcess]:
        """A process that is free."""
        process = self._idle.get()
        try:
            yield process
        finally:
            self._idle.put(process)
