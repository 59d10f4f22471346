"""Measuring a tuned kernel side by side with everything it claims to beat."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..database import Match, NoRecordError, Tier, lookup
from ..workloads import (
    TOLERANCE,
    LengthDistribution,
    PrefillShape,
    PrefillSpec,
    parse_lengths,
    plain_attention,
    ragged_cpu_baseline,
    regimes,
    useful_flops,
)
from . import measure
from .apply import apply_record
from .build import build_library
from .comparison import Comparison
from .environment import versions
from .errors import KernelCheckError, WorkerFailedError
from .target import ResolvedTarget, device_name
from .timing import interleave
from .worker import Worker

STOCK_SPACE = "llvm_stock"
TORCH_SDPA = "torch_sdpa_mask"

_TIMEOUT = 600.0
_GEMM_SIZE = 2048
_FRESH_SEED = 2_000_003
_TORCH_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Contestant:
    """Something to time: a function of :mod:`.measure`, in the process of its engine."""

    name: str
    worker: Worker
    function: Callable[..., float]
    arguments: tuple[Any, ...]

    def time(self, seconds: float) -> float:
        """Seconds a call."""
        return _call(self.worker, self.function, *self.arguments, seconds)


def compare_case(
    spec: PrefillSpec,
    shape: PrefillShape,
    target: ResolvedTarget,
    lens: LengthDistribution,
    roots: Sequence[Path],
    accept: Tier = Tier.EXACT,
    seed: int = 0,
) -> Comparison:
    """Check and time the best record of a case against the kernels that others wrote.

    Parameters
    ----------
    lens : LengthDistribution
        Of the batches that are timed.
    roots : Sequence[Path]
        Databases to look in.
    accept : Tier
        The furthest record that may stand for the case; only records of the same shape run.
    seed : int
        Of the lengths and the inputs.

    Raises
    ------
    NoRecordError
        If no database has a record near enough.
    KernelCheckError
        If the tuned kernel, or one that it is compared with, computes something wrong.
    """
    tuned = _best_match(roots, target, spec, shape, lens, accept)
    stock = _stock_match(roots, target, spec, shape)
    batches = lens.batches(shape.batch, shape.num_kv, seed)
    threads = target.threads
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="prefilltune-"))
        tvm_worker = stack.enter_context(
            Worker(measure.tvm_environment(threads), frozen_when_idle=True)
        )
        blas = {name: str(threads) for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")}
        blas_worker = stack.enter_context(Worker(blas, uses_tvm=False, frozen_when_idle=True))
        torch_worker = (
            stack.enter_context(Worker(blas, uses_tvm=False, frozen_when_idle=True))
            if find_spec("torch")
            else None
        )

        def build(name: str, module: Any) -> str:
            path = f"{folder}/{name}.so"
            return _call(tvm_worker, build_library, module, target.target, path)

        paths = {
            "tuned": build("tuned", apply_record(tuned, target.kind)),
            "unscheduled": build("unscheduled", plain_attention(spec, shape, target.kind)),
        }
        if stock is not None:
            paths["stock"] = build("stock", apply_record(stock, target.kind))
        baseline = build("baseline", ragged_cpu_baseline(spec))
        error = _check_ours(tvm_worker, paths, spec, shape, seed)
        case = (spec, shape, batches, seed)
        checked = (spec, shape, batches[0], seed)
        _check_peer("TVM's ragged CPU prefill", spec, tvm_worker, measure.check_ragged_baseline,
                    baseline, *checked)  # fmt: skip
        contestants = [
            Contestant(name, tvm_worker, measure.time_kernel, (path, *case))
            for name, path in paths.items()
        ]
        contestants.append(
            Contestant("baseline", tvm_worker, measure.time_ragged_baseline, (baseline, *case))
        )
        contestants.append(Contestant("gemm", blas_worker, measure.time_gemm, (_GEMM_SIZE,)))
        found = versions()
        if torch_worker is not None:
            _check_peer("PyTorch", spec, torch_worker, measure.check_torch, *checked, threads)
            found["torch"] = _call(torch_worker, measure.torch_version)
            contestants.append(
                Contestant(TORCH_SDPA, torch_worker, measure.time_torch, (*case, threads))
            )
        times = interleave([each.time for each in contestants])
    median = {
        each.name: statistics.median(seconds)
        for each, seconds in zip(contestants, times, strict=True)
    }
    spread = {
        each.name: _quartile_range(seconds) * 1e3
        for each, seconds in zip(contestants, times, strict=True)
    }
    useful = statistics.mean(useful_flops(spec, shape, np.asarray(each)) for each in batches)
    return Comparison(
        spec=str(spec),
        shape=str(shape),
        lens=lens.text,
        target=str(target.key),
        device=device_name(target.kind),
        valid_lens=batches,
        threads=threads,
        versions=found,
        record=tuned.entry.record_id,
        tier=str(tuned.tier),
        tuned_ms=median["tuned"] * 1e3,
        baseline_ms=median["baseline"] * 1e3,
        stock_ms=median["stock"] * 1e3 if stock else None,
        stock_trials=stock.entry.provenance.trials if stock else None,
        unscheduled_ms=median["unscheduled"] * 1e3,
        peers={TORCH_SDPA: median[TORCH_SDPA] * 1e3} if torch_worker else {},
        limit_gflops=2 * _GEMM_SIZE**3 / median["gemm"] / 1e9,
        tuned_gflops=useful / median["tuned"] / 1e9,
        max_abs_error=error,
        spread_ms=spread,
    )


def _best_match(
    roots: Sequence[Path],
    target: ResolvedTarget,
    spec: PrefillSpec,
    shape: PrefillShape,
    lens: LengthDistribution,
    accept: Tier,
) -> Match:
    match = lookup(roots, target.key, spec, shape, lens=lens.text, accept=accept)
    if match.distance:
        raise NoRecordError(
            f"the nearest record of {spec} is for {match.entry.provenance.shape}, not {shape}, and "
            f"a kernel runs on the shape it was tuned for; run: prefilltune tune --shape {shape}"
        )
    return match


def _stock_match(
    roots: Sequence[Path], target: ResolvedTarget, spec: PrefillSpec, shape: PrefillShape
) -> Match | None:
    try:
        return lookup(roots, target.key, spec, shape, space=STOCK_SPACE)
    except NoRecordError:
        return None


def _check_ours(
    worker: Worker, paths: dict[str, str], spec: PrefillSpec, shape: PrefillShape, seed: int
) -> float:
    """Largest error of the tuned kernel over every regime; every kernel of ours is checked."""
    length = max(shape.qo_len, shape.num_kv)
    fresh = seed + _FRESH_SEED
    batches = [
        *regimes(shape.batch, length),
        parse_lengths("uniform").sample(shape.batch, length, fresh),
    ]
    lens = [tuple(int(each) for each in batch) for batch in batches]
    errors = {
        name: _call(worker, measure.check_kernel, path, spec, shape, lens, fresh)
        for name, path in paths.items()
    }
    for name, error in errors.items():
        if not error <= TOLERANCE[spec.dtype]:
            raise KernelCheckError(
                f"the {name} kernel of {spec} {shape} is off by {error:g}, more than "
                f"{TOLERANCE[spec.dtype]:g}; nothing was compared; tune the case again and report "
                "this"
            )
    return errors["tuned"]


def _check_peer(
    name: str, spec: PrefillSpec, worker: Worker, function: Callable[..., Any], *arguments: Any
) -> None:
    error = _call(worker, function, *arguments)
    if not error <= max(TOLERANCE[spec.dtype], _TORCH_TOLERANCE):
        raise KernelCheckError(
            f"{name} is off by {error:g} on {spec}: it computes something else than what it is "
            "compared with; report this"
        )


def _call(worker: Worker, function: Callable[..., Any], *arguments: Any) -> Any:
    outcome = worker.call(function, *arguments, timeout=_TIMEOUT)
    if outcome.status != "ok":
        raise WorkerFailedError(
            f"{function.__name__} ended with {outcome.status}: {outcome.detail}; run again, and "
            "report it if it happens again"
        )
    return outcome.value


def _quartile_range(seconds: Sequence[float]) -> float:
    quartiles = statistics.quantiles(seconds, n=4)
    return quartiles[2] - quartiles[0]
