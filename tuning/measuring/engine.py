"""What measuring asks of a kind of target; each backend has one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
