"""Running kernels: is the result right, and how long does it take.

Everything here runs inside a :class:`~.worker.Worker`, one process for each engine: TVM, PyTorch
and NumPy in one process take each other's threads. Inputs, references and loaded libraries are
cached from call to call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np

from ...workloads import (
    TOLERANCE,
    Inputs,
    PrefillShape,
    PrefillSpec,
    make_inputs,
    max_error,
    reference_attention,
)
from ...workloads.arrays import lengths_of
from ...workloads.choices import CAUSAL
from ...workloads.pairs import valid_positions, written_rows
from .checking import Expected, expect, poisoned_results
from .totals import as_timed, rooms, timed_lens, without_room

#: Valid lengths of a batch, hashable.
Lens = tuple[int, ...]

#: Those of the batches that are timed in turns.
Batches = tuple[Lens, ...]


def tvm_environment(threads: int) -> dict[str, str]:
    """Variables of a process that runs TVM kernels: its BLAS, used for references, stays single."""
    return {
        "TVM_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }


@dataclass(frozen=True)
class Measurement:
    """What a candidate of a search did.

    Parameters
    ----------
    error : float
        Largest error against the float64 reference; infinite if an element was not written, or
        padding is not as it must be.
    run_secs : tuple[float, ...]
        Seconds a call; empty if the error is too large.
    failure, detail : str
        What kept the candidate from running, and more about it; empty if it ran.
    fatal : bool
        Whether the process that measured is of no more use.
    """

    error: float
    run_secs: tuple[float, ...]
    failure: str = ""
    detail: str = ""
    fatal: bool = False


def prepare(
    spec: PrefillSpec, shape: PrefillShape, batches: Batches, check_lens: Lens, seed: int
) -> None:
    """Compute the references that :func:`check_and_time` needs."""
    for lens in (batches[0], check_lens):
        _expected(spec, shape, lens, seed)


def check_kernel(
    path: str, spec: PrefillSpec, shape: PrefillShape, lens: Sequence[Lens], seed: int
) -> float:
    """Largest error over several batches whose padding holds NaN and Inf.

    Parameters
    ----------
    path : str
        A library with ``main(query, key, value, valid_lens, output, lse)``, a bias before the
        output of a spec that has one.
    lens : Sequence[tuple[int, ...]]
        One batch's valid lengths each; they may lie out of range.
    seed : int
        Of the inputs.
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
        Seconds; a candidate slower than this on its first timed call is timed no further.
    """
    kernel = _function(path)
    error = max(_error(kernel, spec, shape, each, seed) for each in (batches[0], check_lens))
    if not error <= TOLERANCE[spec.dtype]:
        return Measurement(error, ())
    calls = _bound(kernel, spec, shape, batches, seed)
    first = time_calls(calls, 0.0)
    if first > slow:
        return Measurement(error, (first,))
    return Measurement(error, tuple(time_calls(calls, 0.02) for _ in range(5)))


def time_kernel(
    path: str, spec: PrefillSpec, shape: PrefillShape, batches: Batches, seed: int, seconds: float
) -> float:
    """Seconds a call of a kernel of ours, over at least ``seconds``."""
    return time_calls(_bound(_function(path), spec, shape, batches, seed), seconds)


def time_ragged_baseline(
    path: str, spec: PrefillSpec, shape: PrefillShape, batches: Batches, seed: int, seconds: float
) -> float:
    """Seconds a call of TVM's hand-written ragged CPU prefill on the same rows, already packed."""
    calls = [_ragged_call(path, spec, shape, lens, seed)[0] for lens in batches]
    return time_calls(calls, seconds)


def check_ragged_baseline(
    path: str, spec: PrefillSpec, shape: PrefillShape, lens: Lens, seed: int
) -> float:
    """Largest output error of the ragged baseline over the rows it computes."""
    call, unpack = _ragged_call(path, spec, shape, lens, seed)
    call()
    inputs = make_inputs(spec, shape, np.asarray(lens, "int32"), seed)
    expected, _ = _reference(spec, shape, lens, seed)
    rows = written_rows(spec, inputs.valid_lens, shape.qo_len)
    return max_error(unpack()[rows], expected[rows]) if inputs.query.size else 0.0


def time_gemm(size: int, seconds: float) -> float:
    """Seconds of a ``size``-cubed float32 product through NumPy's BLAS."""
    left, right, out = _gemm_operands(size)
    return time_calls([lambda: np.matmul(left, right, out=out)], seconds)


def time_torch_gemm(size: int, threads: int, seconds: float) -> float:
    """Seconds of the same product through PyTorch."""
    import torch  # pyright: ignore[reportMissingImports]  (extra [torch])

    torch.set_num_threads(threads)
    left, right, out = map(torch.from_numpy, _gemm_operands(size))
    return time_calls([lambda: torch.mm(left, right, out=out)], seconds)


def torch_version() -> str:
    """Version of the PyTorch that the worker imports."""
    import torch  # pyright: ignore[reportMissingImports]  (extra [torch])

    return torch.__version__


def time_calls(calls: Sequence[Callable[[], object]], seconds: float) -> float:
    """Mean seconds a call, over as many rounds through ``calls`` as fill ``seconds``."""
    rounds, start = 0, time.perf_counter()
    while True:
        for call in calls:
            call()
        rounds += 1
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            return elapsed / (rounds * len(calls))


def _error(kernel: Any, spec: PrefillSpec, shape: PrefillShape, lens: Lens, seed: int) -> float:
    inputs = _inputs(spec, shape, lens, seed, True)
    given, expected = _tensors(inputs), _expected(spec, shape, lens, seed)

    def error(*, room: bool) -> float:
        results = _results(spec, shape)
        arguments = (*given, *results)
        kernel(*(arguments if room else without_room(arguments, inputs.offsets or ())))
        return expected.error(*(each.numpy() for each in results))

    return max(error(room=room) for room in rooms(spec))


@lru_cache(maxsize=16)
def _inputs(spec: PrefillSpec, shape: PrefillShape, lens: Lens, seed: int, poison: bool) -> Inputs:
    valid_lens = np.asarray(lens, "int32")
    return make_inputs(spec, shape, valid_lens, seed, poison_padding=poison)


@lru_cache(maxsize=64)
def _expected(spec: PrefillSpec, shape: PrefillShape, lens: Lens, seed: int) -> Expected:
    return expect(spec, shape, _inputs(spec, shape, lens, seed, True))


@lru_cache(maxsize=4)
def _reference(
    spec: PrefillSpec, shape: PrefillShape, lens: Lens, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """All of what peers are checked against, which leave rows of padding as they like."""
    inputs = _inputs(spec, shape, lens, seed, True)
    return reference_attention(spec, *inputs.arguments)


def _results(spec: PrefillSpec, shape: PrefillShape) -> tuple[Any, Any]:
    """Output and LSE tensors filled with NaN."""
    from tvm.runtime import tensor

    output, lse = poisoned_results(spec, shape)
    return tensor(output), tensor(lse)


def _tensors(inputs: Inputs) -> tuple[Any, ...]:
    from tvm.runtime import tensor

    return tuple(tensor(array) for array in inputs.arguments)


@lru_cache(maxsize=64)
def _function(path: str) -> Any:
    from tvm.runtime import load_module

    return load_module(path)["main"]


def _bound(
    kernel: Any, spec: PrefillSpec, shape: PrefillShape, batches: Batches, seed: int
) -> list[Callable[[], object]]:
    """A call of ``kernel`` for each batch, on the same tensors: packed ones as far as it fills."""
    from tvm.runtime import tensor

    lens = timed_lens(spec, shape, batches)
    query, key, value, *others = _tensors(_inputs(spec, shape, lens, seed, False))
    results = _results(spec, shape)
    lengths = [lengths_of(spec, shape, np.asarray(lens)) for lens in batches]
    bias = others[len(lengths[0]) :]
    calls = [
        partial(
            kernel,
            *as_timed(spec, (query, key, value, *map(tensor, each), *bias, *results), each),
        )
        for each in lengths
    ]
    calls[0]()
    return calls


@lru_cache(maxsize=16)
def _ragged_call(
    path: str, spec: PrefillSpec, shape: PrefillShape, lens: Lens, seed: int
) -> tuple[Callable[[], object], Callable[[], np.ndarray]]:
    from tvm.runtime import tensor

    inputs = _inputs(spec, shape, lens, seed, False)
    valid = np.asarray(lens)
    queries = valid_positions(spec, valid, shape.qo_len)
    keys = valid_positions(spec, valid, shape.num_kv)
    rows = np.count_nonzero(queries, axis=1)
    output = tensor(np.zeros((rows.sum(), spec.num_qo_heads, spec.head_dim), spec.dtype))
    arguments = (
        tensor(inputs.query[queries]),
        tensor(_offsets(rows)),
        tensor(inputs.key[keys]),
        tensor(inputs.value[keys]),
        tensor(_offsets(np.count_nonzero(keys, axis=1))),
        tensor(np.zeros(rows.sum(), "int32")),
        tensor(np.zeros(shape.batch, "int32")),
        output,
        tensor(np.zeros((rows.sum(), spec.num_qo_heads), "float32")),
        int(spec.window == CAUSAL),
        0,
        1.0,
        10000.0,
        spec.scale,
    )
    kernel = _function(path)

    def unpack() -> np.ndarray:
        full = np.zeros(inputs.query.shape, spec.dtype)
        full[queries] = output.numpy()
        return full

    return (lambda: kernel(*arguments)), unpack


def _offsets(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype("int32")


@lru_cache(maxsize=1)
def _gemm_operands(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    left, right = (generator.standard_normal((size, size), "float32") for _ in range(2))
    return left, right, np.empty((size, size), "float32")
