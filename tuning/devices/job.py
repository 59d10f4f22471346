"""What a pool is opened for, as its caller puts it: the pool knows nothing of what is measured."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..measuring.worker import Outcome
from .slot import Runner


@dataclass(frozen=True)
class Call:
    """A function, with what it is to be called by a runner.

    Parameters
    ----------
    function : Callable[..., Any]
        Of an engine.
    arguments : tuple
        Of the function.
    timeout : float
        Seconds until the call is given up.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    timeout: float

    def on(self, runner: Runner) -> Outcome:
        """Make the call."""
        return runner.call(self.function, *self.arguments, timeout=self.timeout)


@dataclass(frozen=True)
class Job:
    """What slots are brought up for.

    Parameters
    ----------
    prepare : Call
        Comes before any measurement, in each new process.
    calibration : Callable[[], Call or None]
        Waits until there is a kernel by which devices can be compared; the call that times it, in
        seconds. ``None`` if there is no such kernel, and devices are taken as they are.
    least_seconds : float
        Whatever is said to take less was not timed.
    likeness : float
        Devices that differ by more than this factor on one kernel are no siblings.
    stopping : threading.Event
        While it is set, no measurement is begun.
    """

    prepare: Call
    calibration: Callable[[], Call | None]
    least_seconds: float
    likeness: float
    stopping: threading.Event

    def is_plausible(self, seconds: object) -> bool:
        """Whether a kernel can have taken so long."""
        return (
            isinstance(seconds, float) and math.isfinite(seconds) and seconds >= self.least_seconds
        )
