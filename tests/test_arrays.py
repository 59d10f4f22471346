"""Inputs and the count of useful work."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefilltune.workloads import (
    DTYPES,
    TVM_MASK_MODES,
    PrefillShape,
    PrefillSpec,
    make_inputs,
    numpy_dtype,
    useful_flops,
)

SHAPE = PrefillShape(4, 6, 9)
LENS = np.array([0, 2, 100, -5])


def spec(mask_mode="padded", dtype="float32"):
    return PrefillSpec(4, 2, 8, dtype, mask_mode)


def test_bfloat16_is_that_of_ml_dtypes():
    assert numpy_dtype("bfloat16") == ml_dtypes.bfloat16
    assert numpy_dtype("float16") == np.float16


@pytest.mark.parametrize("dtype", DTYPES)
def test_shapes_and_dtypes(dtype):
    inputs = make_inputs(spec(dtype=dtype), SHAPE, LENS, seed=0)
    assert inputs.query.shape == (4, 6, 4, 8)
    assert inputs.key.shape == inputs.value.shape == (4, 9, 2, 8)
    tensors = (inputs.query, inputs.key, inputs.value)
    assert {array.dtype for array in tensors} == {numpy_dtype(dtype)}
    assert inputs.valid_lens.dtype == np.int32
    assert inputs.valid_lens.tolist() == LENS.tolist()


def test_values_are_unit_normal_and_independent():
    inputs = make_inputs(PrefillSpec(8, 8, 64, "float32"), PrefillShape(1, 64), np.array([64]), 0)
    for array in (inputs.query, inputs.key, inputs.value):
        assert abs(array.mean()) < 0.03
        assert abs(array.std() - 1) < 0.03
    assert abs((inputs.key * inputs.value).mean()) < 0.03


def test_seed_decides():
    first, again, other = (make_inputs(spec(), SHAPE, LENS, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.key, again.key)
    assert not np.array_equal(first.key, other.key)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mask_mode", TVM_MASK_MODES)
def test_poison_fills_the_padding_and_nothing_else(mask_mode, dtype):
    clean = make_inputs(spec(mask_mode, dtype), SHAPE, LENS, seed=0)
    poisoned = make_inputs(spec(mask_mode, dtype), SHAPE, LENS, seed=0, poison_padding=True)
    for name in ("query", "key", "value"):
        array, before = getattr(poisoned, name), getattr(clean, name)
        length = array.shape[1]
        for b, valid in enumerate((0, 2, length, 0)):
            position = np.arange(length)
            real = position < valid if mask_mode == "padded" else position >= length - valid
            np.testing.assert_array_equal(array[b, real], before[b, real])
            padding = array[b, ~real].astype(np.float32)
            assert not np.isfinite(padding).any()
            if len(padding) > 1:
                assert np.isnan(padding).any()
                assert np.isinf(padding).any()


@given(
    padding=st.sampled_from(("right", "left")),
    window=st.tuples(*[st.none() | st.integers(0, 6)] * 2),
    qo_len=st.integers(1, 9),
    kv_len=st.integers(1, 9),
    valid_lens=st.lists(st.integers(-3, 12), min_size=1, max_size=4),
)
def test_useful_flops_counts_each_kept_pair(padding, window, qo_len, kv_len, valid_lens):
    left, right = (math.inf if end is None else end for end in window)
    pairs = 0
    for valid in valid_lens:
        n_q, n_kv = min(max(valid, 0), qo_len), min(max(valid, 0), kv_len)
        rows, columns = range(n_q), range(n_kv)
        own = n_kv - n_q
        if padding == "left":
            rows, columns = range(qo_len - n_q, qo_len), range(kv_len - n_kv, kv_len)
            own = kv_len - qo_len
        pairs += sum(row + own - left <= column <= row + own + right
                     for row in rows for column in columns)  # fmt: skip
    shape = PrefillShape(len(valid_lens), qo_len, kv_len)
    # What becomes of scores is no work of the two products.
    chosen = PrefillSpec(4, 2, 8, padding=padding, window=window, softcap=50, bias="relative")
    counted = useful_flops(chosen, shape, np.array(valid_lens))
    assert counted == 4 * 8 * 4 * pairs
    assert type(counted) is int


def test_useful_flops_does_not_overflow_int32_lengths():
    shape = PrefillShape(64, 65536)
    lens = np.full(64, 65536, np.int32)
    assert useful_flops(PrefillSpec(32, 8, 128), shape, lens) == 4 * 128 * 32 * 64 * 65536**2
