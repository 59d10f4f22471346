"""Running kernels on the first GPU: is the result right, and how long does it take.

The counterpart of :mod:`~.cpu`, for the same worker processes. Inputs are
uploaded once and stay on the GPU; results are checked against float64 attention computed on the
CPU. A kernel that faults leaves its process unable to run anything else: the reply says so, and the
caller ends the process.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import numpy as np

from ...workloads import (
    TOLERANCE,
    Inputs,
    PrefillShape,
    PrefillSpec,
    make_inputs,
    numpy_dtype,
    poisoned,
)
from ...workloads.arrays import bias_of, lengths_of
from ...workloads.choices import LAYOUT
from ..errors import KernelFaultError
from .checking import Expected, expect, poisoned_results, result_rows
from .cpu import Batches, Lens, Measurement
from .cuda_timing import LaunchGraph
from .totals import as_timed, rooms, timed_lens, without_room

_REPEATS = 5
_REPEAT_SECONDS = 5e-3
# More than the host adds to a launch: what is slower by this is no kernel of microseconds.
_HOST_SECONDS = 1e-3
_SETS_ON_DEVICE = 4
_DETAIL = 1000


def prepare(
    spec: PrefillSpec, shape: PrefillShape, batches: Batches, check_lens: Lens, seed: int
) -> None:
    """Compute the references and upload the inputs that :func:`check_and_time` needs."""
    for lens in (batches[0], check_lens):
        _expected(spec, shape, lens, seed)
        _on_device(spec, shape, lens, seed, True)
    _on_device(spec, shape, timed_lens(spec, shape, batches), seed, False)


def check_kernel(
    path: str, spec: PrefillSpec, shape: PrefillShape, lens: Sequence[Lens], seed: int
) -> float:
    """Largest error over several batches whose padding holds NaN and Inf.

    Raises
    ------
    KernelFaultError
        If the kernel cannot be launched, or faults.
    """
    kernel = _function(path)
    return max(_error(kernel, spec, shape, batch_lens, seed) for batch_lens in lens)


def check_and_time(
    path: str,
    spec: PrefillSpec,
    shape: PrefillShape,
    batches: Batches,
    check_lens: Lens,
    seed: int,
    slow: float,
) -> Measurement:
    """Check a candidate on two batches, then time it.

    Parameters
    ----------
    batches : tuple[tuple[int, ...], ...]
        Valid lengths of the batches timed; the first is checked too.
    check_lens : tuple[int, ...]
        Those of an irregular batch that is only checked.
    slow : float
        Seconds; a candidate slower than this when first timed is timed no further.
    """
    try:
        kernel = _function(path)
        error = max(_error(kernel, spec, shape, each, seed) for each in (batches[0], check_lens))
        if not error <= TOLERANCE[spec.dtype]:
            return Measurement(error, ())
        calls = _bound(kernel, spec, shape, batches, seed)
        with _device_work():
            once = _wall_seconds(calls[0])
        if once > slow + _HOST_SECONDS:
            return Measurement(error, (once,))
        with _device_work(), LaunchGraph(_device(), calls) as graph:
            if graph.estimate > slow:
                return Measurement(error, (graph.estimate,))
            repeats = tuple(graph.seconds(_REPEAT_SECONDS) for _ in range(_REPEATS))
    except KernelFaultError as fault:
        detail = str(fault)[-_DETAIL:]
        return Measurement(math.inf, (), fault.kind, detail, fatal=not _is_alive())
    return Measurement(error, repeats)


def time_kernel(
    path: str, spec: PrefillSpec, shape: PrefillShape, batches: Batches, seed: int, seconds: float
) -> float:
    """Seconds a launch of a kernel, over at least ``seconds``.

    Raises
    ------
    KernelFaultError
        If the kernel cannot be launched, or faults.
    """
    with _device_work():
        return _graph(path, spec, shape, batches, seed).seconds(seconds)


def _wall_seconds(call: Callable[[], object]) -> float:
    """Of one call and its end on the GPU, the host's part included."""
    start = time.perf_counter()
    call()
    _device().sync()
    return time.perf_counter() - start


def _error(kernel: Any, spec: PrefillSpec, shape: PrefillShape, lens: Lens, seed: int) -> float:
    results, poison = _results(spec, shape)
    expected = _expected(spec, shape, lens, seed)
    arguments = (*_on_device(spec, shape, lens, seed, True), *results)
    lengths = lengths_of(spec, shape, np.asarray(lens))

    def error(*, room: bool) -> float:
        with _device_work():
            for result, nan in zip(results, poison, strict=True):
                nan.copyto(result)
            kernel(*(arguments if room else without_room(arguments, lengths)))
            _device().sync()
            output, lse = _downloaded(spec, shape, results)
        return expected.error(output, lse)

    return max(error(room=room) for room in rooms(spec))


def _bound(
    kernel: Any, spec: PrefillSpec, shape: PrefillShape, batches: Batches, seed: int
) -> list[Callable[[], object]]:
    """A call of ``kernel`` for each batch, on the same tensors: packed ones as far as it fills."""
    lens = timed_lens(spec, shape, batches)
    query, key, value, *others = _on_device(spec, shape, lens, seed, False)
    results, _ = _results(spec, shape)
    lengths = [lengths_of(spec, shape, np.asarray(lens)) for lens in batches]
    bias = others[len(lengths[0]) :]
    return [
        partial(
            kernel,
            *as_timed(spec, (query, key, value, *map(_upload, each), *bias, *results), each),
        )
        for each in lengths
    ]


@lru_cache(maxsize=16)
def _graph(
    path: str, spec: PrefillSpec, shape: PrefillShape, batches: Batches, seed: int
) -> LaunchGraph:
    return LaunchGraph(_device(), _bound(_function(path), spec, shape, batches, seed))


@contextmanager
def _device_work() -> Iterator[None]:
    """Whatever TVM or the driver raises meanwhile is the kernel's fault."""
    try:
        yield
    except Exception as error:
        raise KernelFaultError(str(error).strip()) from error


def _is_alive() -> bool:
    """Whether this process can still use the GPU: after a fault within a kernel it cannot."""
    try:
        _upload(np.zeros(1, "int32")).numpy()
        _device().sync()
    except Exception:
        return False
    return True


@lru_cache(maxsize=2)
def _drawn(spec: PrefillSpec, shape: PrefillShape, seed: int) -> Inputs:
    padded = replace(spec, layout=LAYOUT.default)
    inputs = make_inputs(padded, shape, np.full(shape.batch, shape.num_kv), seed)
    return replace(inputs, bias=bias_of(spec, shape, seed))


def _inputs(spec: PrefillSpec, shape: PrefillShape, lens: Lens, seed: int, poison: bool) -> Inputs:
    inputs, valid_lens = _drawn(spec, shape, seed), np.asarray(lens, "int32")
    if poison or spec.is_packed:
        return poisoned(spec, inputs, valid_lens)
    return replace(inputs, valid_lens=valid_lens)


@lru_cache(maxsize=64)
def _expected(spec: PrefillSpec, shape: PrefillShape, lens: Lens, seed: int) -> Expected:
    return expect(spec, shape, _inputs(spec, shape, lens, seed, True))


@lru_cache(maxsize=_SETS_ON_DEVICE)
def _on_device(
    spec: PrefillSpec, shape: PrefillShape, lens: Lens, seed: int, poison: bool
) -> tuple[Any, ...]:
    return tuple(map(_upload, _inputs(spec, shape, lens, seed, poison).arguments))


@lru_cache(maxsize=1)
def _results(spec: PrefillSpec, shape: PrefillShape) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Output and LSE, and as many NaNs to fill them with."""
    nans = poisoned_results(spec, shape)
    return (_upload(nans[0]), _upload(nans[1])), (_upload(nans[0]), _upload(nans[1]))


def _downloaded(
    spec: PrefillSpec, shape: PrefillShape, results: tuple[Any, Any]
) -> list[np.ndarray]:
    """Output and LSE in memory of the host, until the next call: fresh memory costs more."""
    arrays, dtypes = [], (spec.dtype, spec.lse_type)
    for result, host, dtype in zip(results, _on_host(spec, shape), dtypes, strict=True):
        result.copyto(host._create_view(host.shape, dtype))
        arrays.append(np.from_dlpack(host).view(numpy_dtype(dtype)))
    return arrays


@lru_cache(maxsize=1)
def _on_host(spec: PrefillSpec, shape: PrefillShape) -> tuple[Any, Any]:
    """Memory for output and LSE, as whole numbers: NumPy takes no bfloat16 from others."""
    from tvm.runtime import empty

    rows = result_rows(spec, shape)
    output, lse = (f"uint{8 * numpy_dtype(each).itemsize}" for each in (spec.dtype, spec.lse_type))
    return empty((*rows, spec.head_dim), output), empty(rows, lse)


@lru_cache(maxsize=64)
def _function(path: str) -> Any:
    from tvm.runtime import load_module

    return load_module(path)["main"]


def _upload(array: np.ndarray) -> Any:
    from tvm.runtime import tensor

    return tensor(array, _device())


@lru_cache(maxsize=1)
def _device() -> Any:
    import tvm

    return tvm.cuda(0)
