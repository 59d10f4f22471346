"""TVM's hand-written kernel, shown beside the best of a search; no comparison rests on it."""

from __future__ import annotations

import contextlib
import math
from concurrent.futures import Future
from dataclasses import replace

from ...workloads import Case
from ...workloads.baseline import has_baseline, nearest_with_baseline
from ..backends import backend_of
from ..devices.pool import Pool
from ..errors import WorkerFailedError
from ..spaces import DesignSpace
from ..target import ResolvedTarget
from .builders import Builders
from .device_job import baseline_call


class Baseline:
    """TVM's hand-written kernel for a case, built in the background from here on.

    Where TVM's kernels do not compute the case, one of the nearest that they do compare devices.

    Parameters
    ----------
    case : Case
        Its sizes.
    target : ResolvedTarget
        What it is built for.
    builders : Builders
        Build it.
    pool : Pool
        Times it.

    Attributes
    ----------
    exists : bool
        Whether TVM has a kernel that computes the case.
    """

    def __init__(self, case: Case, target: ResolvedTarget, builders: Builders, pool: Pool) -> None:
        self._case = replace(case, spec=nearest_with_baseline(case.spec))
        self.exists = has_baseline(case.spec)
        self._pool = pool
        self._target = target
        self._path: Future[str | None] | None = None
        if not (self.exists or self._compares_devices):
            return
        # TVMScript is parsed by one thread only: the caller's.
        module = backend_of(target.kind).engine.baseline(self._case.spec, target.target)

        def build() -> str | None:
            path, outcome = builders.build(module, DesignSpace.build_timeout)
            return path if outcome.status == "ok" else None

        self._path = builders.submit(build)

    @property
    def calibration(self) -> Future[str | None] | None:
        """Path of its library, where several devices time it to be compared with one another."""
        return self._path if self._compares_devices else None

    @property
    def _compares_devices(self) -> bool:
        return len(self._pool.slots) > 1

    def time(self) -> float:
        """Seconds a call; nan if TVM has none, or it cannot be built, or fails."""
        if not self.exists:
            return math.nan
        if self.calibration is not None:
            self._pool.wait_until_ready()
            return self._pool.baseline_seconds
        assert self._path is not None
        path = self._path.result()
        if path is None:
            return math.nan
        call = baseline_call(self._case, self._target, path)
        with contextlib.suppress(WorkerFailedError), self._pool.lease() as runner:
            timed = call.on(runner)
            if timed.status != "ok":
                raise WorkerFailedError(timed.detail)  # its process may be of no more use
            return timed.value
        return math.nan
