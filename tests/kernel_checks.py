"""What the tests of kernels share."""

from __future__ import annotations

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


def kernel_error(
    kernel: Any,
    spec: PrefillSpec,
    shape: PrefillShape,
    valid_lens: np.ndarray,
    seed: int,
    device: Any = None,
) -> float:
    """Largest error of ``kernel`` on inputs whose padding is poisoned, into poisoned results.

    Tensors are on ``device``, the CPU when absent.
    """
    from tvm.runtime import tensor

    inputs = make_inputs(spec, shape, valid_lens, seed, poison_padding=True)
    arrays = inputs.arguments
    dtype = numpy_dtype(spec.dtype)
    output = tensor(np.full(inputs.query.shape, np.nan, dtype), device)
    lse = tensor(np.full(inputs.query.shape[:3], np.nan, numpy_dtype(spec.lse_type)), device)
    kernel(*(tensor(array, device) for array in arrays), output, lse)
    expected_output, expected_lse = reference_attention(spec, *arrays)
    return max(max_error(output.numpy(), expected_output), max_error(lse.numpy(), expected_lse))
