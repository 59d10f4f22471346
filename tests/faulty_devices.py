"""Devices that go wrong in every way, for tests of the pool: real processes, simulated times.

A time is drawn from what a library holds, so that every search over the same space ends alike. What
is wrong with a device stands in its process's environment as ``DEVICE_FAULT``: a fault and, after a
colon, the call of each process from which on it happens. ``DEVICE_ONCE`` names a file that is made
by the first fault and prevents any other.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from prefilltune.tuning.backends import Backend
from prefilltune.tuning.measuring.cpu import Measurement
from prefilltune.tuning.measuring.worker import Worker
from prefilltune.workloads import PrefillShape, PrefillSpec

_GARBAGE = {"nan": math.nan, "negative": -1e-3, "zero": 0.0, "instant": 1e-12}
_calls = itertools.count(1)


def device(fault: str = "", once: Path | None = None) -> Worker:
    """A process that measures as it should, but for a fault."""
    environment = {"DEVICE_FAULT": fault, "PYTHONPATH": os.pathsep.join(sys.path)}
    if once is not None:
        environment["DEVICE_ONCE"] = str(once)
    return Worker(environment, uses_tvm=False)


def simulated(backend: Backend, timeout: float = 20.0) -> Backend:
    """A backend that measures with the functions of this module."""
    engine = dataclasses.replace(
        backend.engine,
        prepare=prepare,
        check_and_time=check_and_time,
        baseline=_soon_built,
        time_baseline=time_baseline,
        timeout=timeout,
        alone=False,
    )
    return dataclasses.replace(backend, engine=engine)


def _soon_built(spec: PrefillSpec, _: Any) -> Any:
    from prefilltune.workloads import plain_attention  # a device need not import TVM

    return plain_attention(spec, PrefillShape(1, 8))


def prepare(*_: Any) -> None:
    """Nothing to prepare."""


def time_baseline(path: str, *_: Any) -> float:
    """Seconds of the calibration kernel."""
    fault, _, _ = os.environ["DEVICE_FAULT"].partition(":")
    if fault == "stuck" and not _has_happened():
        time.sleep(600)
    return 1e-3 * (10 if fault == "slow" else 1)


def check_and_time(path: str, *_: Any) -> Measurement:
    """A time between 1 and 2 ms, unless a fault is due."""
    digest = hashlib.sha256(Path(path).read_bytes()).digest()
    seconds = 1e-3 * (1 + digest[0] / 256 + digest[1] / 256**2)
    fault, _, first = os.environ["DEVICE_FAULT"].partition(":")
    if fault == "patient":  # which leaves others their turns
        time.sleep(0.3)
        return Measurement(0.0, (seconds,) * 3)
    if not fault or next(_calls) < int(first or 1) or _has_happened():
        return Measurement(0.0, (seconds,) * 3)
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "hang":
        time.sleep(600)
    if fault == "raise":
        raise OSError("the device has fallen off the bus")
    if fault == "wild":
        return Measurement(math.inf, (), "device fault", "illegal address", fatal=True)
    return Measurement(0.0, (_GARBAGE.get(fault, 10 * seconds),) * 3)


def _has_happened() -> bool:
    once = os.environ.get("DEVICE_ONCE")
    if once is None:
        return False
    try:
        Path(once).touch(exist_ok=False)
    except FileExistsError:
        return True
    return False
