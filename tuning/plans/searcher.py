"""The processes that search for a plan, each on its share of the devices."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from psutil import Process

from ...database.scratch import ScratchFolder
from ...workloads import Case, PrefilltuneError
from ..devices.machine import Wanted
from ..errors import SearchDiedError
from ..killing import kill_all, processes_below
from ..measuring.pickles import read_pickle, write_pickle
from ..search.state import Limit, Listener, SearchState
from ..search.tune import TuneResult
from ..target import ResolvedTarget
from .sharing import Device, Devices

_END_TIMEOUT = 10.0


@dataclass(frozen=True)
class Allotment:
    """What a process searches with.

    Parameters
    ----------
    devices : Devices
        Taken by its first search and kept until it ends.
    wanted : Wanted
        The target.
    builders : int
        Processes that build.
    """

    devices: Devices
    wanted: Wanted
    builders: int


@dataclass(frozen=True)
class Assignment:
    """A search, as the arguments of :func:`~prefilltune.tuning.search.tune.tune_case`."""

    case: Case
    target: ResolvedTarget
    spaces: tuple[str, ...]
    limit: Limit
    root: Path
    keep: int


class Searcher:
    """A process that searches for one workload after another; a child of this one.

    It ends when its stdin closes, even in the middle of a search.

    Parameters
    ----------
    allotment : Allotment
        What it searches with.
    """

    def __init__(self, allotment: Allotment) -> None:
        self.allotment = allotment
        # Where the process puts what it builds: what it leaves there when it dies is removed too.
        self._folder = ScratchFolder()
        with _interrupts_held():
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.search_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "TMPDIR": str(self._folder.path)},
                start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on
            )
        self._started: list[Process] = []
        with contextlib.suppress(BrokenPipeError):  # its death is noticed by `search`
            write_pickle(self._process.stdin, allotment)

    def search(self, assignment: Assignment, listener: Listener) -> TuneResult:
        """Search; any thread may wait here.

        Raises
        ------
        SearchDiedError
            If the process died.
        PrefilltuneError
            What the search itself raises.
        """
        try:
            write_pickle(self._process.stdin, assignment)
            while isinstance(said := read_pickle(self._process.stdout), SearchState):
                listener(said)
        except (EOFError, BrokenPipeError):
            raise SearchDiedError(
                f"the search for {assignment.case.on(assignment.target.key)} died with "
                f"{self._process.wait()}; its trials are kept, and it is begun anew"
            ) from None
        if isinstance(said, PrefilltuneError):
            raise said
        return said

    def interrupt(self) -> None:
        """Have its search end early, keeping what it found."""
        self._process.send_signal(signal.SIGINT)

    def let_go(self) -> None:
        """Ask nothing more of the process, which then ends by itself."""
        self._started = self._started or processes_below(self._process.pid)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()

    def close(self, *, kill: bool = False) -> None:
        """End the process, and what it had started."""
        self.let_go()
        if kill:
            self._process.kill()
        try:
            self._process.wait(_END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        kill_all(self._started)  # what it has not ended itself
        self._folder.remove()


class Searchers:
    """The processes of a plan, kept from search to search; a context manager that ends them."""

    def __init__(self) -> None:
        self._idle: list[Searcher] = []
        self._held: list[Searcher] = []

    @property
    def taken(self) -> set[Device]:
        """Devices of those that search, and of those that were set aside."""
        return {device for each in self._held for device in each.allotment.devices}

    def take(self, allotment: Allotment) -> Searcher:
        """A process with such an allotment; others that hold its devices are ended."""
        for each in list(self._idle):
            if each.allotment != allotment and set(each.allotment.devices) & set(allotment.devices):
                self._idle.remove(each)
                each.close()
        same = next((each for each in self._idle if each.allotment == allotment), None)
        if same is not None:
            self._idle.remove(same)
        found = same or Searcher(allotment)
        self._held.append(found)
        return found

    def give_back(self, searcher: Searcher) -> None:
        """Have a process ready for another search."""
        self._held.remove(searcher)
        self._idle.append(searcher)

    def end(self, searcher: Searcher) -> None:
        """Part with a process."""
        self._held.remove(searcher)
        searcher.close(kill=True)

    def __enter__(self) -> Searchers:
        return self

    def __exit__(self, *exc: object) -> None:
        for each in self._idle:
            each.let_go()  # all end at once
        for each in self._idle:
            each.close(kill=exc[0] is not None)
        for each in self._held:
            each.close(kill=True)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold SIGINT back; a process started meanwhile does so until it can deal with it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
