"""Inputs that show what a row sees: NaN, Inf and huge numbers where it may look and where not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from prefilltune.workloads import (
    TOLERANCE,
    Inputs,
    PrefillShape,
    PrefillSpec,
    make_inputs,
    numpy_dtype,
    reference_attention,
)


def extreme_inputs(
    spec: PrefillSpec, shape: PrefillShape, largest_score: float
) -> Iterator[tuple[str, Inputs]]:
    """Of every kind one, by what it holds; each padded, the padding full of NaN and Inf.

    ``shape`` is of two sequences or more; exponents of two go up to about ``largest_score``.
    """
    lens = np.resize([shape.num_kv, shape.num_kv - 4], shape.batch)
    limit = float(np.finfo(np.float16).max) if spec.dtype == "float16" else 1e38

    def drawn() -> Inputs:
        return make_inputs(spec, shape, lens, 5, poison_padding=True)

    for number in (np.nan, np.inf, -np.inf):
        inputs = drawn()
        inputs.query[0, shape.qo_len // 2, 1, 3] = number
        yield f"{number} in a query", inputs
        inputs = drawn()
        inputs.key[0, shape.num_kv // 2, 0, 3] = number
        yield f"{number} in a key", inputs
    inputs = drawn()
    inputs.query[:, :, :, 0], inputs.key[0, shape.num_kv // 2, :, 0] = 1, -np.inf
    inputs.key[0, shape.num_kv // 2, :, 1:] = 0
    yield "a key of score -Inf", inputs
    inputs = drawn()
    inputs.query[:], inputs.key[:] = np.abs(inputs.query), -np.inf
    yield "all scores -Inf", inputs
    if spec.mask_mode == "causal_padded_left":
        inputs = drawn()
        inputs.value[0, -1] = limit
        yield f"a value of {limit} that one row sees", inputs
    inputs = drawn()
    inputs.value[:] = np.where(np.isfinite(inputs.value), limit / 1e5 ** (limit > 1e5), np.nan)
    yield "values at the limit", inputs
    # Whole numbers times a power of two: no score is rounded, and those that differ differ much.
    factor = 2.0 ** np.floor(np.log2(largest_score / (16 * spec.scale * spec.head_dim)) / 2)
    factor = min(factor, 4096.0 if spec.dtype == "float16" else np.inf)

    def far(array: np.ndarray) -> np.ndarray:
        return np.rint(array.astype(np.float32) * 2) * factor

    for name, query_sign, key_sign in (("apart", 0, 0), ("below 0", 1, -1), ("above 0", 1, 1)):
        inputs = drawn()
        for array, sign in ((inputs.query, query_sign), (inputs.key, key_sign)):
            array[:] = sign * np.abs(far(array)) if sign else far(array)
        yield f"scores far {name}", inputs


def difference(spec: PrefillSpec, inputs: Inputs, output: np.ndarray, lse: np.ndarray) -> str:
    """How a result differs from the reference; empty if it does not.

    Where the reference is NaN or Inf, the result is the same; elsewhere it is near.
    """
    arrays = inputs.arguments
    for name, actual, expected in zip(
        ("output", "lse"), (output, lse), reference_attention(spec, *arrays), strict=True
    ):
        actual = actual.astype(np.float64)
        finite = np.isfinite(expected)
        other = ~finite & ~((actual == expected) | (np.isnan(actual) & np.isnan(expected)))
        if other.any() or not np.isfinite(actual[finite]).all():
            wrong = np.argwhere(other | (finite & ~np.isfinite(actual)))
            where = tuple(map(int, wrong[0]))
            return f"{name}{list(where)} is {actual[where]} for {expected[where]} ({len(wrong)})"
        scale = np.maximum(1.0, np.abs(expected[finite]))
        error = (np.abs(actual[finite] - expected[finite]) / scale).max(initial=0.0)
        if error > TOLERANCE[spec.dtype]:
            return f"{name} is off by {error}"
    return ""


def run_on_cpu(kernel: Any, spec: PrefillSpec, inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """Output and LSE of a kernel, which were NaN beforehand."""
    from tvm.runtime import tensor

    results = (
        tensor(np.full(inputs.query.shape, np.nan, inputs.query.dtype)),
        tensor(np.full(inputs.query.shape[:3], np.nan, numpy_dtype(spec.lse_type))),
    )
    arrays = inputs.arguments
    kernel(*map(tensor, arrays), *results)
    return results[0].numpy(), results[1].numpy()
