"""What differs between processors when kernels are measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...workloads import masked_baseline, ragged_cpu_baseline
from . import cpu as measure
from . import cuda as measure_cuda
from .cpu import Measurement


@dataclass(frozen=True)
class Engine:
    """How the kernels of a target kind are measured.

    Parameters
    ----------
    prepare : Callable[..., None]
        ``prepare(spec, shape, batches, check_lens, seed)``: what candidates share, computed ahead.
    check_kernel : Callable[..., float]
        ``check_kernel(path, spec, shape, lens, seed)``: largest error over batches.
    check_and_time : Callable[..., Measurement]
        ``check_and_time(path, spec, shape, batches, check_lens, seed, slow)``.
    time_kernel : Callable[..., float]
        ``time_kernel(path, spec, shape, batches, seed, seconds)``: seconds a call.
    baseline : Callable[..., Any]
        ``baseline(spec, target)``: TVM's hand-written kernel, an IRModule.
    time_baseline : Callable[..., float]
        Like ``time_kernel``, for the baseline.
    timeout : float
        Seconds that a candidate may take, once all is prepared.
    alone : bool
        Whether nothing else may run on the CPU while a kernel is timed.
    round_seconds : float
        How long one timing is to take where several kernels are timed in turns.
    likeness : float
        Devices that differ by more than this factor on one kernel are no siblings.

    Notes
    -----
    All but ``baseline`` run in a worker process.
    """

    prepare: Callable[..., None]
    check_kernel: Callable[..., float]
    check_and_time: Callable[..., Measurement]
    time_kernel: Callable[..., float]
    baseline: Callable[..., Any]
    time_baseline: Callable[..., float]
    timeout: float
    alone: bool
    round_seconds: float
    likeness: float


ENGINES = {
    "llvm": Engine(
        prepare=measure.prepare,
        check_kernel=measure.check_kernel,
        check_and_time=measure.check_and_time,
        time_kernel=measure.time_kernel,
        baseline=lambda spec, target: ragged_cpu_baseline(spec),
        time_baseline=measure.time_ragged_baseline,
        timeout=60.0,
        alone=True,
        round_seconds=0.03,
        likeness=4.0,  # what else a CPU is busy with comes on top
    ),
    "cuda": Engine(
        prepare=measure_cuda.prepare,
        check_kernel=measure_cuda.check_kernel,
        check_and_time=measure_cuda.check_and_time,
        time_kernel=measure_cuda.time_kernel,
        baseline=masked_baseline,
        time_baseline=measure_cuda.time_kernel,
        timeout=20.0,
        alone=False,
        round_seconds=0.01,  # replays between events: no noise of a host to be averaged away
        likeness=1.25,
    ),
}
