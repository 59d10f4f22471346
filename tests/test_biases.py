"""The biases of models, against what their own code computes: a number for each row and column."""

from __future__ import annotations

import math

import numpy as np
import pytest

from prefilltune.workloads import InvalidSpecError, PrefillShape, PrefillSpec, reference_attention
from prefilltune.workloads.biases import alibi_bias, alibi_slopes, t5_bias

LENGTHS = [(1, 1), (300, 300), (7, 200), (200, 7)]


def spread(bias: np.ndarray, qo_len: int, kv_len: int) -> np.ndarray:
    """``[heads, qo_len, kv_len]``, as a kernel reads it."""
    entry = np.arange(kv_len)[None, :] - np.arange(qo_len)[:, None] + qo_len - 1
    return bias[:, entry]


def to_the_right(qo_len: int, kv_len: int) -> np.ndarray:
    """How many positions each column lies to the right of each row; the ends are aligned."""
    return np.arange(kv_len)[None, :] - (np.arange(qo_len)[:, None] + kv_len - qo_len)


def slopes_of_the_paper(num_heads: int) -> list[float]:
    """ALiBi's own rule, by recursion."""
    if math.log2(num_heads).is_integer():
        start = 2 ** (-(2 ** -(math.log2(num_heads) - 3)))
        return [start * start**i for i in range(num_heads)]
    below = 2 ** math.floor(math.log2(num_heads))
    return slopes_of_the_paper(below) + slopes_of_the_paper(2 * below)[0::2][: num_heads - below]


@pytest.mark.parametrize("num_heads", [1, 2, 3, 8, 12, 16, 20])
def test_slopes(num_heads: int) -> None:
    np.testing.assert_allclose(alibi_slopes(num_heads), slopes_of_the_paper(num_heads), rtol=1e-6)


@pytest.mark.parametrize(("qo_len", "kv_len"), LENGTHS)
def test_alibi(qo_len: int, kv_len: int) -> None:
    bias = alibi_bias(12, qo_len, kv_len)
    assert (bias.shape, bias.dtype) == ((12, qo_len + kv_len - 1), np.float32)
    distance = np.abs(to_the_right(qo_len, kv_len))
    expected = -np.array(slopes_of_the_paper(12))[:, None, None] * distance
    np.testing.assert_allclose(spread(bias, qo_len, kv_len), expected, rtol=1e-6)


def bucket(right: int, bidirectional: bool, num_buckets: int, max_distance: int) -> int:
    """T5's rule for one pair, in words of its own: how many octaves beyond those alone."""
    first, distance = 0, max(-right, 0)
    if bidirectional:
        num_buckets //= 2
        first, distance = num_buckets * (right > 0), abs(right)
    alone = num_buckets // 2
    if distance < alone:
        return first + distance
    # The largest bucket whose least distance is not above this one, free of logarithms.
    reached = max(
        step
        for step in range(num_buckets - alone)
        if distance ** (num_buckets - alone)
        >= alone ** (num_buckets - alone - step) * max_distance**step
    )
    return first + alone + reached


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("qo_len", "kv_len"), LENGTHS)
def test_t5(qo_len: int, kv_len: int, bidirectional: bool) -> None:
    table = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
    bias = t5_bias(table, qo_len, kv_len, bidirectional=bidirectional)
    assert (bias.shape, bias.dtype) == ((3, qo_len + kv_len - 1), np.float32)
    right = to_the_right(qo_len, kv_len)
    buckets = {int(each): bucket(int(each), bidirectional, 32, 128) for each in np.unique(right)}
    expected = np.vectorize(lambda each, head: table[buckets[int(each)], head])(
        right[None], np.arange(3)[:, None, None]
    )
    np.testing.assert_array_equal(spread(bias, qo_len, kv_len), expected)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_t5_as_transformers_have_it(bidirectional: bool) -> None:
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5", reason="needs transformers")
    torch = pytest.importorskip("torch")
    right = torch.arange(-400, 401)
    theirs = t5.T5Attention._relative_position_bucket(right, bidirectional, 32, 128)
    ours = t5_bias(np.arange(32.0)[:, None], 401, 401, bidirectional=bidirectional)[0]
    assert ours.tolist() == theirs.tolist()


def test_a_table_of_another_form_is_refused() -> None:
    with pytest.raises(InvalidSpecError, match=r"the shape \(3, 32\); give the weight of"):
        t5_bias(np.zeros((3, 32)), 4, 4)
    with pytest.raises(InvalidSpecError, match="max_distance is 8; it must be above 8"):
        t5_bias(np.zeros((32, 3)), 4, 4, max_distance=8)


def test_the_reference_takes_them() -> None:
    """Where all scores are 0, weights are those of the bias alone."""
    spec, shape = PrefillSpec(2, 2, 4, "float32", bias="relative"), PrefillShape(1, 3)
    query = np.zeros((1, 3, 2, 4), np.float32)
    value = np.tile(np.arange(3.0)[None, :, None, None], (1, 1, 2, 4))
    bias = alibi_bias(2, shape.qo_len, shape.num_kv)
    output, _ = reference_attention(spec, query, query, value, np.array([3]), bias)
    weights = np.exp(-np.array([1 / 16, 1 / 256])[:, None] * np.arange(3))
    expected = (weights * np.arange(3)).sum(1) / weights.sum(1)
    np.testing.assert_allclose(output[0, 0, :, 0], expected, rtol=1e-6)
