"""Checking a result against parts of the reference: every kind of wrong is seen."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from prefilltune.tuning.measuring.checking import Expected, checked_heads, expect
from prefilltune.workloads import (
    TOLERANCE,
    PrefillShape,
    PrefillSpec,
    empty_lse,
    make_inputs,
    numpy_dtype,
    poisoned,
    reference_attention,
)

LENS = np.array([0, 1, 9, 5, -3, 20, 9])


@pytest.fixture(params=["padded", "causal_padded_left"])
def mask_mode(request: pytest.FixtureRequest) -> str:
    return request.param


def _case(
    mask_mode: str,
    kv_len: int = 9,
    budget: float = math.inf,
    dtype: str = "float32",
    padding_output: str = "zero",
) -> tuple[Expected, np.ndarray, np.ndarray]:
    """What is expected on nine query rows of each sequence, and the whole reference."""
    spec = PrefillSpec(4, 2, 16, dtype, mask_mode, padding_output=padding_output)
    shape = PrefillShape(7, 9, kv_len)
    inputs = make_inputs(spec, shape, LENS, 0, poison_padding=True)
    arrays = inputs.arguments
    output, lse = reference_attention(spec, *arrays)
    element = numpy_dtype(dtype)
    return expect(spec, shape, inputs, budget), output.astype(element), lse.astype(element)


@pytest.mark.parametrize("kv_len", [9, 5, 14])
@pytest.mark.parametrize("budget", [0, math.inf])
def test_the_reference_is_right(mask_mode: str, kv_len: int, budget: float) -> None:
    expected, output, lse = _case(mask_mode, kv_len, budget)
    assert len(expected.heads) == (28 if budget else 6)
    assert expected.error(output, lse) <= 1e-6


@pytest.mark.parametrize("wrong", [0.5, math.nan, math.inf])
def test_a_wrong_element_is_seen(mask_mode: str, wrong: float) -> None:
    expected, output, lse = _case(mask_mode)
    b, row = np.argwhere(expected.keyed)[3]
    output[b, row, 2, 7] += wrong
    assert expected.error(output, lse) >= 0.1


def test_padding_must_be_exact(mask_mode: str) -> None:
    expected, output, lse = _case(mask_mode, budget=0)
    b, row = np.argwhere(~expected.keyed)[-1]
    output[b, row, 1, 3] = 1e-4
    assert expected.error(output, lse) == math.inf
    output[b, row, 1, 3] = 0
    assert expected.error(output, lse) <= 1e-6
    lse[b, row, 1] = np.nextafter(np.float32(empty_lse("float32")), np.float32(0))
    assert expected.error(output, lse) == math.inf


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_padding_may_be_left_untouched(mask_mode: str, dtype: str) -> None:
    expected, output, lse = _case(mask_mode, budget=0, dtype=dtype, padding_output="untouched")
    assert expected.error(output, lse) <= TOLERANCE[dtype]
    b, row = np.argwhere(~expected.written)[-1]
    output[b, row, 1, 3] = 0
    assert expected.error(output, lse) == math.inf
    output[b, row, 1, 3] = np.nan
    lse[b, row, 1] = -lse[b, row, 1]  # another NaN
    assert expected.error(output, lse) == math.inf
    lse[b, row, 1] = np.nan
    assert expected.error(output, lse) <= TOLERANCE[dtype]
    b, row = np.argwhere(expected.written)[-1]
    output[b, row, 1, 3] = np.nan
    assert expected.error(output, lse) == math.inf


def test_a_head_without_reference_must_be_finite(mask_mode: str) -> None:
    expected, output, lse = _case(mask_mode, budget=0)
    b, row = next(
        (b, row) for b, row in np.argwhere(expected.keyed) if (b, 2) not in expected.heads
    )
    output[b, row, 2, 0] = math.nan
    assert expected.error(output, lse) == math.inf


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_no_dtype_hides_what_is_wrong(mask_mode: str, dtype: str) -> None:
    expected, output, lse = _case(mask_mode, budget=0, dtype=dtype)
    (b, row), (padded_b, padding) = np.argwhere(expected.keyed)[-1], np.argwhere(~expected.keyed)[0]

    def error(head: int, value: float, b: int = b, row: int = row) -> float:
        wrong = output.copy()
        wrong[b, row, head, 5] = value
        return expected.error(wrong, lse)

    unseen = next(head for head in range(4) if (b, head) not in expected.heads)
    assert error(unseen, float(ml_dtypes.finfo(output.dtype).max)) <= TOLERANCE[dtype]
    assert error(0, -0.0, padded_b, padding) <= TOLERANCE[dtype]
    for value in (math.nan, math.inf, -math.inf):
        assert error(unseen, value) == math.inf
    for value in (math.nan, float(ml_dtypes.finfo(output.dtype).tiny), -1.0):
        assert error(0, value, padded_b, padding) == math.inf


def test_heads_are_chosen_to_cover() -> None:
    spec, shape = PrefillSpec(8, 2, 64), PrefillShape(32, 512)
    lens = np.array([512, 100] * 15 + [7, 512])
    heads = checked_heads(spec, shape, lens, budget=0)
    assert {(0, 0), (31, 7)} <= set(heads)
    assert {lens[b] for b, _ in heads} == {512, 100, 7}
    some = checked_heads(spec, shape, lens, budget=5e9)
    assert len(heads) < len(some) < 32 * 8
    assert {h for _, h in some} == set(range(8))
    everything = checked_heads(spec, shape, lens, budget=math.inf)
    assert len(everything) == len(set(everything)) == 32 * 8


def test_inputs_are_poisoned_for_other_lengths(mask_mode: str) -> None:
    spec, shape = PrefillSpec(4, 2, 16, "bfloat16", mask_mode), PrefillShape(7, 9, 5)
    clean = make_inputs(spec, shape, np.full(7, 9), 3)
    drawn = make_inputs(spec, shape, LENS, 3, poison_padding=True)
    made = poisoned(spec, clean, LENS)
    for name in ("query", "key", "value", "valid_lens"):
        assert getattr(made, name).tobytes() == getattr(drawn, name).tobytes()
    assert not np.isnan(clean.query.astype("float32")).any()
