"""The reference against hand-computed cases and against the definition, pair by pair."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spec_strategies import masks_and_scores

from prefilltune.workloads import (
    DTYPES,
    TOLERANCE,
    PrefillShape,
    PrefillSpec,
    empty_lse,
    make_inputs,
    max_error,
    reference_attention,
)


def naive_attention(spec, inputs):
    """One (batch, head, row) after the other, scalar by scalar."""
    batch, qo_len, num_qo_heads, head_dim = inputs.query.shape
    kv_len = inputs.key.shape[1]
    output = np.full((batch, qo_len, num_qo_heads, head_dim), np.nan)
    lse = np.full((batch, qo_len, num_qo_heads), np.nan)
    for b in range(batch):
        valid_len = int(inputs.valid_lens[b])
        n_q, n_kv = max(0, min(valid_len, qo_len)), max(0, min(valid_len, kv_len))
        for h in range(num_qo_heads):
            kv_head = h // (num_qo_heads // spec.num_kv_heads)
            for row in range(qo_len):
                left_padded = spec.padding == "left"
                rows = range(qo_len - n_q, qo_len) if left_padded else range(n_q)
                if row in rows or spec.padding_output == "zero":
                    output[b, row, h] = 0
                    lse[b, row, h] = empty_lse(spec.lse_type)
                keys = range(kv_len - n_kv, kv_len) if left_padded else range(n_kv)
                columns = [
                    col for col in keys if row in rows and _in_window(spec, row, col, rows, keys)
                ]
                if not columns:
                    continue
                exponentials = {}
                for col in columns:
                    dot = sum(
                        float(inputs.query[b, row, h, d]) * float(inputs.key[b, col, kv_head, d])
                        for d in range(head_dim)
                    )
                    one = dot * spec.scale
                    if spec.softcap:
                        one = spec.softcap * math.tanh(one / spec.softcap)
                    if spec.bias:
                        one += float(inputs.bias[h, col - row + qo_len - 1])
                    exponentials[col] = math.exp(one)
                total = sum(exponentials.values())
                lse[b, row, h] = math.log2(total)
                for col, weight in exponentials.items():
                    output[b, row, h] += (
                        weight / total * inputs.value[b, col, kv_head].astype(np.float64)
                    )
    return output, lse


def _in_window(spec, row, col, rows, keys):
    """Whether the window of a row reaches a column, counted from the ends of what is valid."""
    left, right = spec.window
    ahead = (keys[-1] - col) - (rows[-1] - row)  # how far the row's own column lies ahead
    return (left is None or ahead <= left) and (right is None or -ahead <= right)


def attend(spec, inputs):
    return reference_attention(spec, *inputs.arguments)


@given(
    chosen=masks_and_scores(),
    dtype=st.sampled_from(DTYPES),
    kv_heads=st.integers(1, 2),
    group=st.integers(1, 3),
    head_dim=st.integers(1, 4),
    qo_len=st.integers(1, 6),
    kv_len=st.integers(1, 6),
    valid_lens=st.lists(st.integers(-2, 8), min_size=1, max_size=3),
    sm_scale=st.none() | st.floats(0.01, 2.0),
)
def test_agrees_with_the_naive_loop(
    chosen, dtype, kv_heads, group, head_dim, qo_len, kv_len, valid_lens, sm_scale
):
    spec = PrefillSpec(kv_heads * group, kv_heads, head_dim, dtype, sm_scale=sm_scale, **chosen)
    shape = PrefillShape(len(valid_lens), qo_len, kv_len)
    inputs = make_inputs(spec, shape, np.array(valid_lens), seed=1, poison_padding=True)
    output, lse = attend(spec, inputs)
    naive_output, naive_lse = naive_attention(spec, inputs)
    np.testing.assert_allclose(output, naive_output, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(lse, naive_lse, rtol=1e-12, atol=1e-12)
    assert output.dtype == lse.dtype == np.float64


def one_head(*rows):
    """``[1, len, 1, 1]`` from one number a position."""
    return np.array(rows, np.float32).reshape(1, -1, 1, 1)


# With head_dim 1 and sm_scale ln 2, a score's exponent of two is query times key itself.
LN2 = math.log(2)
EMPTY = empty_lse("float32")


def test_padded_by_hand():
    spec = PrefillSpec(1, 1, 1, "float32", "padded", LN2)
    # Exponents of row 0: 1 * (0, 1), weights 1/3 and 2/3; of row 1: 0 * (0, 1), weights 1/2.
    output, lse = reference_attention(
        spec,
        one_head(1, 0, np.nan),
        one_head(0, 1, np.inf),
        one_head(3, 6, np.nan),
        np.array([2]),
    )
    np.testing.assert_allclose(output.ravel(), [5.0, 4.5, 0.0], atol=1e-12)
    np.testing.assert_allclose(lse.ravel(), [math.log2(3), 1.0, EMPTY])


def test_causal_by_hand():
    spec = PrefillSpec(1, 1, 1, "float32", "causal_padded_left", LN2)
    # Position 0 is padding; row 1 sees itself, row 2 sees positions 1 and 2.
    output, lse = reference_attention(
        spec,
        one_head(np.nan, 1, 1),
        one_head(np.inf, 2, 3),
        one_head(np.nan, 6, 9),
        np.array([2]),
    )
    np.testing.assert_allclose(output.ravel(), [0.0, 6.0, 8.0], atol=1e-12)
    np.testing.assert_allclose(lse.ravel(), [EMPTY, 2.0, math.log2(12)])


def test_causal_is_aligned_at_the_ends():
    spec = PrefillSpec(1, 1, 1, "float32", "causal_padded_left", LN2)
    # Two queries, four keys, all valid: query 0 sees keys 0 to 2, query 1 sees all.
    output, lse = reference_attention(
        spec, one_head(0, 0), one_head(0, 0, 0, 0), one_head(1, 2, 3, 10), np.array([4])
    )
    np.testing.assert_allclose(output.ravel(), [2.0, 4.0])
    np.testing.assert_allclose(lse.ravel(), [math.log2(3), 2.0])


def test_causal_rows_before_the_first_key_are_empty():
    spec = PrefillSpec(1, 1, 1, "float32", "causal_padded_left", LN2)
    # Four queries, two keys: queries 0 and 1 lie before key 0, though none is padding.
    output, lse = reference_attention(
        spec, one_head(0, 0, 0, 0), one_head(0, 0), one_head(1, 3), np.array([4])
    )
    np.testing.assert_allclose(output.ravel(), [0.0, 0.0, 1.0, 2.0])
    np.testing.assert_allclose(lse.ravel(), [EMPTY, EMPTY, 0.0, 1.0])


def test_query_heads_of_a_group_share_their_key_head():
    spec = PrefillSpec(4, 2, 1, "float32", "padded", 1.0)
    value = np.array([10.0, 20.0], np.float32).reshape(1, 1, 2, 1)
    output, _ = reference_attention(
        spec, np.ones((1, 1, 4, 1)), np.ones((1, 1, 2, 1)), value, np.array([1])
    )
    assert output.ravel().tolist() == [10.0, 10.0, 20.0, 20.0]


def test_large_scores_do_not_overflow():
    spec = PrefillSpec(1, 1, 1, "float32", "padded", 1.0)
    output, lse = reference_attention(
        spec, one_head(1e4, -1e4), one_head(1, 2), one_head(5, 7), np.array([2])
    )
    np.testing.assert_allclose(output.ravel(), [7.0, 5.0])
    np.testing.assert_allclose(lse.ravel(), np.array([2e4, -1e4]) * math.log2(math.e))


def test_max_error_is_relative_above_one_and_absolute_below():
    assert max_error(np.array([0.5, 100.0]), np.array([0.25, 200.0])) == 0.5
    assert max_error(np.array([0.5]), np.array([0.0])) == 0.5
    assert max_error(np.zeros((0,)), np.zeros((0,))) == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_max_error_of_what_is_not_finite(bad):
    assert max_error(np.array([1.0, bad]), np.ones(2)) == math.inf


def test_max_error_refuses_to_broadcast():
    with pytest.raises(ValueError, match="differ"):
        max_error(np.ones((2, 1)), np.ones(2))


@pytest.mark.parametrize("dtype", DTYPES)
def test_tolerance_allows_for_rounding_and_no_wrong_weight(dtype):
    spec = PrefillSpec(2, 1, 16, dtype)
    inputs = make_inputs(spec, PrefillShape(1, 40), np.array([40]), seed=0)
    output, _ = attend(spec, inputs)
    assert max_error(output.astype(inputs.query.dtype), output) <= TOLERANCE[dtype]
    inputs.valid_lens[0] = 39
    one_key_less, _ = attend(spec, inputs)
    assert max_error(output[:, :39], one_key_less[:, :39]) > TOLERANCE[dtype]


def test_rows_do_not_depend_on_how_many_there_are() -> None:
    spec, shape = PrefillSpec(2, 1, 16, "float32"), PrefillShape(1, 300, 40)
    inputs = make_inputs(spec, shape, np.array([300]), 0)
    rest = (inputs.key, inputs.value, inputs.valid_lens)
    output, lse = reference_attention(spec, inputs.query, *rest)
    for first in (0, 200, 255, 256, 299):
        alone, lse_alone = reference_attention(spec, inputs.query[:, first:], *rest)
        np.testing.assert_allclose(alone, output[:, first:], rtol=1e-13, atol=1e-15)
        np.testing.assert_allclose(lse_alone, lse[:, first:], rtol=1e-13)
