"""What the tests of kernels share."""

from __future__ import annotations

import math
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

    inputs = make_inputs(spec, shape, valid_lens, seed, poison_padding=True)
    arrays = inputs.arguments
    dtype = numpy_dtype(spec.dtype)
    output = tensor(np.full(inputs.query.shape, np.nan, dtype), device)
    lse = tensor(np.full(inputs.query.shape[:3], np.nan, numpy_dtype(spec.lse_type)), device)
    kernel(*(tensor(array, device) for array in arrays), output, lse)
    expected_output, expected_lse = reference_attention(spec, *arrays)
    return max(
        written_error(spec, valid_lens, output.numpy(), expected_output),
        written_error(spec, valid_lens, lse.numpy(), expected_lse),
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
