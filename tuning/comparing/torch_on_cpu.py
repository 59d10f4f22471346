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
from .side_by_side import first_line
from .torch_peers import Prepared, peers_on_a_cpu
from .torch_problem import problem_of

#: Of the process: PyTorch compiles in it, and leaves no others behind that spin.
ENVIRONMENT = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}


def check_peer(
    name: str, spec: PrefillSpec, shape: PrefillShape, lens: Lens, seed: int, threads: int
) -> Result:
    """Largest error of a peer's output over the rows that keep a key, or why it has none."""
    inputs = make_inputs(spec, shape, np.asarray(lens, "int32"), seed)
    expected, lse = reference_attention(spec, *inputs.arguments)
    rows = lse > empty_lse(spec.lse_type)
    try:
        peer = _prepared(name, spec, shape, lens, seed, threads)
        output = peer.padded(peer.call()).float().numpy()
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
    calls: list[Callable[[], Any]] = [
        _prepared(name, spec, shape, lens, seed, threads).call for lens in batches
    ]
    return time_calls(calls, seconds)


@lru_cache(maxsize=32)
def _prepared(
    name: str, spec: PrefillSpec, shape: PrefillShape, lens: Lens, seed: int, threads: int
) -> Prepared:
    import torch  # pyright: ignore[reportMissingImports]  (extra [torch])

    torch.set_num_threads(threads)
    # Without a GPU it warns of a CUDA that it finds as it compiles.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    inputs = make_inputs(spec, shape, np.asarray(lens, "int32"), seed)
    (peer,) = (each for each in peers_on_a_cpu(spec) if each.name == name)
    return peer.prepare(problem_of(spec, shape, inputs))
