"""A candidate on its way from its arm to its trial."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from ..measuring.cpu import Measurement
from ..measuring.worker import Outcome
from .arms import Arm
from .builders import Built
from .strategies import Proposal
from .trial_log import Trial


@dataclass
class Candidate:
    """A proposal on its way.

    Parameters
    ----------
    arm : Arm
        Learns from it.
    proposal : Proposal
        Its schedule.
    trial : Trial, optional
        What came of it: of an earlier search, or once it has been measured.
    build : Future[tuple[str, Outcome]], optional
        Of its library; absent exactly if an earlier trial is known.
    measured : Future[None], optional
        Ends with its measurement.
    foreign : bool
        Whether it is not of the arm's own proposing, but was fast for another workload.
    """

    arm: Arm
    proposal: Proposal
    trial: Trial | None = None
    build: Future[Built] | None = None
    measured: Future[None] | None = None
    foreign: bool = False


def verdict(build: Outcome, run: Outcome, tolerance: float) -> dict[str, Any]:
    """Times or the failure of a candidate, as the fields of its trial.

    Parameters
    ----------
    build, run : Outcome
        How each ended; where there was no run, the build's again.
    tolerance : float
        Largest error of a right kernel.
    """
    if build.status != "ok":
        failure = "build timeout" if build.status == "timeout" else "build"
        return {"failure": failure, "detail": build.detail}
    if run.status != "ok":
        kinds = {"timeout": "run timeout", "error": "run error"}
        return {"failure": kinds.get(run.status, "crash"), "detail": run.detail}
    measurement: Measurement = run.value
    if measurement.failure:
        return {"failure": measurement.failure, "detail": measurement.detail}
    if not measurement.run_secs:
        detail = f"error {measurement.error:g} above {tolerance:g}"
        return {"failure": "wrong result", "detail": detail}
    return {"run_secs": measurement.run_secs}
