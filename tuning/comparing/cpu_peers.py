"""Peers on a CPU, on the inputs of everything else that is compared there.

Everything here runs inside a :class:`~.worker.Worker` without TVM, one for each library.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from ...workloads import (
    PrefillShape,
    PrefillSpec,
    empty_lse,
    make_inputs,
    max_error,
    reference_attention,
)
from ..measuring.cpu import Batches, Lens, time_calls
from ..measuring.timing import Result
from .peers.onnx_runtime import LIBRARY, ArrayProblem
from .peers.peer import Prepared
from .peers.registry import named_on_a_cpu
from .side_by_side import first_line
from .torch_problem import problem_of

#: Of PyTorch's process: it compiles in it, and leaves no others behind that spin.
ENVIRONMENT = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}


def check_peer(
    name: str, spec: PrefillSpec, shape: PrefillShape, lens: Lens, seed: int, threads: int
) -> Result:
    """Largest error of a peer's output, or why it has none.

    Over the rows that keep a key, or all if the peer makes the others zeros.
    """
    peer = named_on_a_cpu(name, spec)
    known = peer.known_spec(spec)
    inputs = make_inputs(known, shape, np.asarray(lens, "int32"), seed)
    expected, lse = reference_attention(known, *inputs.arguments)
    rows = np.full(lse.shape, True) if peer.zeros else lse > empty_lse(spec.lse_type)
    try:
        ready, problem = _prepared(name, spec, shape, lens, seed, threads)
        output = ready.padded(ready.bind(problem)())
    except Exception as failure:  # libraries raise any class, and so do compilers that they call
        return Result(failure=first_line(failure))
    if not isinstance(output, np.ndarray):
        output = output.float().numpy()
    return Result(error=max_error(output[rows], expected[rows]) if rows.any() else 0.0)


def time_peer(
    name: str,
    spec: PrefillSpec,
    shape: PrefillShape,
    batches: Batches,
    seed: int,
    threads: int,
    seconds: float,
) -> float:
    """Seconds a call of a peer, over at least ``seconds``."""
    return time_calls(_calls(name, spec, shape, batches, seed, threads), seconds)


@lru_cache(maxsize=8)
def _calls(
    name: str, spec: PrefillSpec, shape: PrefillShape, batches: Batches, seed: int, threads: int
) -> list[Callable[[], Any]]:
    prepared = (_prepared(name, spec, shape, lens, seed, threads) for lens in batches)
    return [ready.bind(problem) for ready, problem in prepared]


@lru_cache(maxsize=32)
def _prepared(
    name: str, spec: PrefillSpec, shape: PrefillShape, lens: Lens, seed: int, threads: int
) -> tuple[Prepared, Any]:
    peer = named_on_a_cpu(name, spec)
    known = peer.known_spec(spec)
    inputs = make_inputs(known, shape, np.asarray(lens, "int32"), seed)
    if peer.library == LIBRARY:
        problem = ArrayProblem(known, shape, inputs, threads)
    else:
        _set_up_torch(threads)
        problem = problem_of(known, shape, inputs)
    return peer.prepare(problem), problem


def _set_up_torch(threads: int) -> None:
    import torch  # pyright: ignore[reportMissingImports]  (extra [torch])

    torch.set_num_threads(threads)
    # Without a GPU it warns of a CUDA that it finds as it compiles.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
