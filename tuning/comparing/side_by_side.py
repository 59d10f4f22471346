"""Checking and timing kernels and PyTorch's peers in one process, on one device.

Everything here runs inside a :class:`~.worker.Worker`, and takes libraries by their paths. The
device may be a CPU, where plain calls are timed, so that all but CUDA itself can be tried anywhere.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from ...workloads import PrefillShape, PrefillSpec
from ..measuring.cpu import time_calls
from ..measuring.timing import Result, Timer, interleave
from .comparison import DENSE
from .torch_peers import PEERS, Prepared, matrix_product
from .torch_problem import (
    Problem,
    draw_problems,
    largest_error,
    poison_padding,
    reference,
    valid_positions,
    written_rows,
)
from .torch_timing import GraphTimer

#: Name of TVM's hand-written kernel among what is compared.
BASELINE = "baseline"

#: Largest error of another's kernel on valid rows, without a bias; looser than what is asked of
#: ours.
PEER_TOLERANCE = {"float32": 1e-3, "float16": 5e-3, "bfloat16": 2e-2}

_ROUNDS = 15
_SECONDS = 4e-3


@dataclass(frozen=True)
class _Entrant:
    """Something to check and time."""

    prepare: Callable[[Problem], Prepared]
    is_right: bool


def largest_kernel_error(
    path: str,
    spec: PrefillSpec,
    shape: PrefillShape,
    batches: Sequence[Sequence[int]],
    seed: int,
    device: str = "cuda",
) -> float:
    """Largest error of a kernel of ours, output and LSE, where padding holds NaN and Inf."""
    errors = []
    for problem in draw_problems(spec, shape, batches, seed, device):
        kernel = _Kernel(path, poison_padding(problem), spec.lse_type)
        kernel()
        written = written_rows(problem)
        for result, expected in zip((kernel.output, kernel.lse), reference(problem), strict=True):
            untouched = bool(result[~written].isnan().all())
            errors.append(largest_error(result[written], expected[written]))
            errors += [] if untouched else [math.inf]
    return max(errors)


def warm_up_peers(
    spec: PrefillSpec,
    shape: PrefillShape,
    batches: Sequence[Sequence[int]],
    seed: int,
    device: str,
) -> None:
    """Have PyTorch compile what it compiles for a workload; failures are left to be met again."""
    (problem,) = draw_problems(spec, shape, batches[:1], seed, device)
    for peer in PEERS:
        if not peer.lacks(spec):
            with contextlib.suppress(Exception):
                peer.prepare(problem).call()


def measure_side_by_side(
    libraries: Mapping[str, str],
    spec: PrefillSpec,
    shape: PrefillShape,
    batches: Sequence[Sequence[int]],
    seed: int,
    gemm_size: int,
    device: str,
) -> dict[str, Result]:
    """Check and time kernels, every peer and a matrix product in turns, on the same batches.

    Parameters
    ----------
    libraries : Mapping[str, str]
        Paths of kernels ``main(query, key, value, valid_lens, output, lse)``, a bias before the
        output of a spec that has one, by any names; TVM's hand-written one by the name
        :data:`BASELINE`.
    batches : Sequence[Sequence[int]]
        Valid lengths; a call's time is the mean over them.
    gemm_size : int
        Side of the matrix product ``gemm``, in the dtype of the spec.
    device : str
        ``cuda`` or ``cpu``.

    Returns
    -------
    dict[str, Result]
        By name: the libraries, :data:`~.torch_peers.PEERS` and ``gemm``.

    Raises
    ------
    RuntimeError
        If a contestant broke the CUDA context, so that nothing can be measured any more.
    """
    problems = draw_problems(spec, shape, batches, seed, device)
    expected = [reference(problem)[0] for problem in problems]
    entrants = {
        **{
            name: _Entrant(partial(_prepare_kernel, path, lse_dtype), True)
            for name, path in libraries.items()
            # TVM's hand-written kernel knows no other dtype than the query's.
            for lse_dtype in [spec.dtype if name == BASELINE else spec.lse_type]
        },
        **{
            peer.name: _Entrant(peer.prepare, peer.kind != DENSE)
            for peer in PEERS
            if not peer.lacks(spec)
        },
    }
    results = {
        peer.name: Result(failure=lacking) for peer in PEERS if (lacking := peer.lacks(spec))
    }
    timers: dict[str, Timer] = {}
    for name, entrant in entrants.items():
        try:
            calls, error = _checked(entrant, problems, expected)
            timers[name] = _timer(calls, device)
            results[name] = Result(error=error)
        except Exception as failure:  # of any library, by any class
            results[name] = Result(failure=first_line(failure))
            _refuse_broken_context(name, failure, device)
    timers["gemm"] = _timer([matrix_product(spec.dtype, gemm_size, device)], device)
    results["gemm"] = Result()
    times = interleave(list(timers.values()), _ROUNDS, _SECONDS)
    for name, seconds in zip(timers, times, strict=True):
        results[name] = Result(seconds, results[name].error)
    return results


class _Kernel:
    """A kernel of a library bound to a problem, on PyTorch's current stream."""

    def __init__(self, path: str, problem: Problem, lse_dtype: str) -> None:
        import torch  # pyright: ignore[reportMissingImports]
        import tvm_ffi

        self._function = _function(path)
        self._device = problem.device
        self.output = problem.query.new_full(problem.query.shape, float("nan"))
        self.lse = self.output.new_full(
            problem.query.shape[:3], float("nan"), dtype=getattr(torch, lse_dtype)
        )
        tensors = (*problem.arguments, self.output, self.lse)
        self._arguments = [tvm_ffi.from_dlpack(each) for each in tensors]

    def __call__(self) -> Any:
        import torch  # pyright: ignore[reportMissingImports]
        import tvm_ffi

        if self._device.type == "cpu":
            self._function(*self._arguments)
        else:
            # TVM launches on a stream of its own choice unless told otherwise.
            stream = torch.cuda.current_stream().cuda_stream
            with tvm_ffi.use_raw_stream(tvm_ffi.device("cuda", self._device.index), stream):
                self._function(*self._arguments)
        return self.output


@lru_cache(maxsize=8)
def _function(path: str) -> Any:
    from tvm.runtime import load_module

    return load_module(path)["main"]


def _prepare_kernel(path: str, lse_dtype: str, problem: Problem) -> Prepared:
    return Prepared(_Kernel(path, problem, lse_dtype), lambda output: output)


def _checked(
    entrant: _Entrant, problems: Sequence[Problem], expected: Sequence[Any]
) -> tuple[list[Callable[[], Any]], float | None]:
    """The calls of an entrant, each run once, and their largest error on valid rows."""
    calls, errors = [], []
    for problem, output in zip(problems, expected, strict=True):
        prepared = entrant.prepare(problem)
        actual = prepared.padded(prepared.call())
        if entrant.is_right:
            rows = valid_positions(problem, problem.shape.qo_len)
            errors.append(largest_error(actual[rows], output[rows]))
        calls.append(prepared.call)
    if not errors:
        return calls, None
    spec = problems[0].spec
    tolerance = PEER_TOLERANCE[spec.dtype] * bias_slack(spec)
    if not max(errors) <= tolerance:
        raise ValueError(f"wrong on valid rows: error {max(errors):.2g} above {tolerance:g}")
    return calls, max(errors)


def bias_slack(spec: PrefillSpec) -> float:
    """What a peer's tolerance grows by: SDPA adds a bias in the dtype of its tensors, rounded."""
    return 2.0 if spec.bias else 1.0


def _timer(calls: Sequence[Callable[[], Any]], device: str) -> Timer:
    return partial(time_calls, calls) if device == "cpu" else GraphTimer(calls)


def _refuse_broken_context(name: str, failure: Exception, device: str) -> None:
    import torch  # pyright: ignore[reportMissingImports]

    if device == "cpu":
        return
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError:
        raise RuntimeError(f"{name} broke the CUDA context: {first_line(failure)}") from failure


def first_line(failure: Exception) -> str:
    """What a table has room for."""
    lines = [line.strip() for line in str(failure).splitlines() if line.strip()]
    return f"{type(failure).__name__}: {lines[0][:200]}" if lines else type(failure).__name__
