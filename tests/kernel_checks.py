"""What the tests of kernels share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from prefilltune.workloads import (
    PrefillShape,
    PrefillSpec,
    make_inputs,
    max_error,
    numpy_dtype,
    reference_attention,
)
from prefilltune.workloads.pairs import written_rows


def kernel_error(
    kernel: Any,
    spec: PrefillSpec,
    shape: PrefillShape,
    valid_lens: np.ndarray,
    seed: int,
    device: Any = None,
) -> float:
    """Largest error of ``kernel`` on inputs whose padding is poisoned, into poisoned results.

    Infinite if what is to stay untouched is not, bit for bit. Tensors are on ``device``, the CPU
    when absent.
    """
    from tvm.runtime import tensor

    def run(*arrays: np.ndarray) -> None:
        tensors = [tensor(array, device) for array in arrays]
        kernel(*tensors)
        for array, computed in zip(arrays[-2:], tensors[-2:], strict=True):
            array[...] = computed.numpy()

    return error_on_arrays(run, spec, shape, valid_lens, seed)


def error_on_arrays(
    run: Callable[..., None],
    spec: PrefillSpec,
    shape: PrefillShape,
    valid_lens: np.ndarray,
    seed: int,
) -> float:
    """As :func:`kernel_error`, of what computes on NumPy arrays, into the last two."""
    inputs = make_inputs(spec, shape, valid_lens, seed, poison_padding=True)
    output = np.full(inputs.query.shape, np.nan, numpy_dtype(spec.dtype))
    lse = np.full(inputs.query.shape[:3], np.nan, numpy_dtype(spec.lse_type))
    run(*inputs.arguments, output, lse)
    expected = reference_attention(spec, *inputs.arguments)
    return max(
        written_error(spec, valid_lens, actual, each)
        for actual, each in zip((output, lse), expected, strict=True)
    )


def written_error(
    spec: PrefillSpec, valid_lens: np.ndarray, actual: np.ndarray, expected: np.ndarray
) -> float:
    """Largest error of an output or an LSE that was filled with NaN before.

    Infinite if what is to stay untouched is not, bit for bit.
    """
    written = written_rows(spec, np.asarray(valid_lens), actual.shape[1])
    left = actual[~written]
    if left.tobytes() != np.full_like(left, np.nan).tobytes():
        return math.inf
    return max_error(actual[written], expected[written])
