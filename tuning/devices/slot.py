"""A device of a pool, and the process that runs kernels on it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ..measuring.worker import Outcome


class Runner(Protocol):
    """A process that calls functions one at a time: a worker, or a device elsewhere."""

    def start(self) -> None:
        """Get ready; raises WorkerFailedError if that is impossible."""
        ...

    def restart(self) -> None:
        """Take a new process for kernels, whatever the last one suffered."""
        ...

    def call(self, function: Callable[..., Any], *args: Any, timeout: float) -> Outcome:
        """Call a function of an engine; ``lost`` if the device cannot be reached."""
        ...

    def close(self, *, kill: bool = False) -> None:
        """End the process; a later call starts another one."""
        ...

    def abort(self) -> None:
        """End a call that is under way, from any thread."""
        ...


@dataclass(eq=False)
class Slot:
    """A device of a pool.

    Parameters
    ----------
    name : str
        For people.
    runner : Runner
        Used by one thread at a time.
    calls, faults : int
        Measurements, and those that failed though the candidate was sound.
    calibration : float
        Seconds of the calibration kernel; nan if it was not timed.
    aside : str
        Why it is used no more; empty if it is.
    """

    name: str
    runner: Runner
    calls: int = 0
    faults: int = 0
    calibration: float = math.nan
    aside: str = ""
