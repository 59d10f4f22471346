"""What a search asks of devices before they measure for it, and which times it believes."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import replace

import numpy as np

from ...workloads import Case, PrefilltuneError, useful_flops
from ..backends import backend_of
from ..devices.job import Call, Job
from ..target import ResolvedTarget

_PREPARE_TIMEOUT = 300.0
_BASELINE_TIMEOUT = 60.0
_BASELINE_SECONDS = 0.05

# No device makes as many floating-point operations a second, and none can be called as fast.
_FASTEST_FLOPS, _FASTEST_CALL = 1e17, 1e-7


def device_job(
    case: Case,
    target: ResolvedTarget,
    stopping: threading.Event,
    baseline: Future[str | None] | None = None,
) -> Job:
    """What a pool is to be opened for.

    Parameters
    ----------
    case : Case
        What will be measured.
    target : ResolvedTarget
        What for.
    stopping : threading.Event
        While it is set, no measurement is begun.
    baseline : Future[str or None], optional
        Path of a library of the case's baseline, by which the devices are compared.
    """
    engine, lens = backend_of(target.kind).engine, case.batches()
    inputs = (case.spec, case.shape, lens, case.check_lens(), case.seed)
    flops = min(useful_flops(case.spec, case.shape, np.asarray(each)) for each in lens)

    def calibration() -> Call | None:
        path = _path_of(baseline)
        return None if path is None else baseline_call(case, target, path)

    return Job(
        prepare=Call(engine.prepare, inputs, _PREPARE_TIMEOUT),
        calibration=calibration,
        least_seconds=max(_FASTEST_CALL, flops / _FASTEST_FLOPS),
        likeness=engine.likeness,
        stopping=stopping,
    )


def baseline_call(case: Case, target: ResolvedTarget, path: str) -> Call:
    """How a library of a case's baseline is timed: seconds a call."""
    spec = replace(case.spec, lse_dtype=None)  # it knows no other than the query's
    arguments = (path, spec, case.shape, case.batches(), case.seed, _BASELINE_SECONDS)
    return Call(backend_of(target.kind).engine.time_baseline, arguments, _BASELINE_TIMEOUT)


def _path_of(baseline: Future[str | None] | None) -> str | None:
    """A library to compare devices by, once it is built; ``None`` if it cannot be."""
    try:
        return baseline.result() if baseline is not None else None
    except PrefilltuneError:
        return None
