"""PyTorch's peers on a CPU, on the inputs of everything else that is compared there.

Everything here runs inside a :class:`~.worker.Worker` without TVM.
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
from .peers.peer import Prepared
from .peers.registry import named_on_a_cpu
from .side_by_side import first_line
from .torch_problem import Problem, problem_of

#: Of the process: PyTorch compiles in it, and leaves no others behind that spin.
ENVIRONMENT = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}


def check_peer(
    name: str, spec: PrefillSpec, shape: PrefillShape, lens: Lens, seed: int, threads: int
) -> Result:
    """Largest error of a peer's output, or why it has none.

    Over the rows that keep a key, or all if the peer makes the others zeros.
    """
    inputs = make_inputs(spec, shape, np.asarray(lens, "int32"), seed)
    expected, lse = reference_attention(spec, *inputs.arguments)
    rows = (
        np.full(lse.shape, True)
        if named_on_a_cpu(name, spec).zeros
        else lse > empty_lse(spec.lse_type)
    )
    try:
        peer, problem = _prepared(name, spec, shape, lens, seed, threads)
        output = peer.padded(peer.bind(problem)()).float().numpy()
    except Exception as failure:  # PyTorch raises any class, and so do the compilers that it calls
        return Result(failure=first_line(failure))
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
    prepared = [_prepared(name, spec, shape, lens, seed, threads) for lens in batches]
    calls: list[Callable[[], Any]] = [peer.bind(problem) for peer, problem in prepared]
    return time_calls(calls, seconds)


@lru_cache(maxsize=32)
def _prepared(
    name: str, spec: PrefillSpec, shape: PrefillShape, lens: Lens, seed: int, threads: int
) -> tuple[Prepared, Problem]:
    import torch  # pyright: ignore[reportMissingImports]  (extra [torch])

    torch.set_num_threads(threads)
    # Without a GPU it warns of a CUDA that it finds as it compiles.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    inputs = make_inputs(spec, shape, np.asarray(lens, "int32"), seed)
    problem = problem_of(spec, shape, inputs)
    return named_on_a_cpu(name, spec).prepare(problem), problem
