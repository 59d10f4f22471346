"""Length distributions: what they draw, their texts, and what they refuse."""

from __future__ import annotations

import json
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefilltune.workloads import InvalidLengthsError, PrefilltuneError, parse_lengths, regimes
from prefilltune.workloads.lengths import UniformLengths


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("full", "full"),
        ("uniform", "uniform"),
        ("uniform:0.25-1", "uniform"),
        ("uniform:0.25-1.0", "uniform"),
        ("uniform:0.125-1", "uniform:0.125-1"),
        ("uniform:0.50-0.750", "uniform:0.5-0.75"),
        ("uniform:0-0.0000001", "uniform:0-0.0000001"),
        ("fixed:3,17,128", "fixed:3,17,128"),
        ("fixed:0", "fixed:0"),
        ("fixed:007", "fixed:7"),
    ],
)
def test_text_is_canonical_and_round_trips(text, canonical):
    distribution = parse_lengths(text)
    assert distribution.text == canonical
    assert parse_lengths(distribution.text) == distribution


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "'' is no distribution"),
        ("Full", "'Full' is no distribution"),
        ("full:", "'full:' is no distribution"),
        ("uniform:", "'uniform:' is no distribution"),
        ("uniform:0.5", "'uniform:0.5' is no distribution"),
        ("uniform:-1-1", "'uniform:-1-1' is no distribution"),
        ("uniform:0.5-0.25", "0 <= LOW <= HIGH <= 1"),
        ("uniform:0.5-2", "0 <= LOW <= HIGH <= 1"),
        ("uniform:0-0", "HIGH above 0"),
        ("fixed:", "'fixed:' is no distribution"),
        ("fixed:1,", "'fixed:1,' is no distribution"),
        ("fixed:-1", "'fixed:-1' is no distribution"),
        ("histogram:", "'histogram:' is no distribution"),
        ("zipf", "histogram:PATH"),
    ],
)
def test_unknown_text(text, complaint):
    with pytest.raises(InvalidLengthsError) as caught:
        parse_lengths(text)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, PrefilltuneError)


@given(
    text=st.sampled_from(["full", "uniform", "uniform:0.125-1", "uniform:0-0.01", "fixed:0,1"]),
    batch=st.integers(1, 40),
    max_len=st.integers(1, 5000),
    seed=st.integers(0, 2**32),
)
def test_sample_is_in_range_and_repeatable(text, batch, max_len, seed):
    distribution = parse_lengths(text)
    lens = distribution.sample(batch, max_len, seed)
    assert lens.shape == (batch,)
    assert lens.dtype == np.int32
    assert lens.min() >= (0 if text.startswith("fixed") else 1)
    assert lens.max() <= max_len
    np.testing.assert_array_equal(lens, distribution.sample(batch, max_len, seed))


def test_full_is_full():
    assert parse_lengths("full").sample(3, 77, seed=5).tolist() == [77, 77, 77]


@pytest.mark.parametrize(
    ("text", "max_len", "expected"),
    [
        ("uniform", 8, set(range(2, 9))),
        ("uniform", 10, set(range(3, 11))),  # 2.5 rounded up
        ("uniform", 1, {1}),
        ("uniform:0.07-0.1", 100, {7, 8, 9, 10}),  # 0.07 * 100 is above 7 in binary floats
        ("uniform:0-0.01", 30, {1}),
        ("uniform:0.5-0.5", 9, {5}),
    ],
)
def test_uniform_takes_every_length_of_its_range(text, max_len, expected):
    assert set(parse_lengths(text).sample(2000, max_len, seed=0).tolist()) == expected


def test_uniform_depends_on_the_seed():
    distribution = UniformLengths(Decimal("0.1"))
    first, second = (distribution.sample(32, 1000, seed) for seed in (0, 1))
    assert first.tolist() != second.tolist()


def test_fixed_is_repeated_over_the_batch():
    fixed = parse_lengths("fixed:3,17,128")
    assert fixed.sample(5, 128, seed=0).tolist() == [3, 17, 128, 3, 17]
    assert fixed.sample(2, 128, seed=9).tolist() == [3, 17]


def test_fixed_length_above_the_shape_is_refused():
    with pytest.raises(InvalidLengthsError, match="length 128 exceeds the sequence length 127"):
        parse_lengths("fixed:3,17,128").sample(1, 127, seed=0)


def write(path, content):
    path.write_text(content, encoding="utf-8")
    return f"histogram:{path}"


@pytest.fixture
def csv_text(tmp_path):
    return write(tmp_path / "traffic.csv", "length,count\n64, 10\n\n512,30\n64,20\n")


def test_histogram_draws_in_proportion(csv_text):
    lens = parse_lengths(csv_text).sample(20_000, 512, seed=0)
    assert set(lens.tolist()) == {64, 512}
    assert abs((lens == 64).mean() - 0.5) < 0.02
    np.testing.assert_array_equal(lens, parse_lengths(csv_text).sample(20_000, 512, seed=0))


def test_histogram_is_clamped(csv_text):
    assert set(parse_lengths(csv_text).sample(200, 100, seed=0).tolist()) == {64, 100}


def test_histogram_text_names_its_content(csv_text, tmp_path):
    from_csv = parse_lengths(csv_text)
    assert from_csv.text.startswith("histogram:traffic-")
    assert len(from_csv.text.removeprefix("histogram:traffic-")) == 8
    (tmp_path / "elsewhere").mkdir()
    same = write(tmp_path / "elsewhere" / "traffic.json", "[[512, 30], [64, 30]]")
    assert parse_lengths(same) == from_csv
    other = write(tmp_path / "elsewhere" / "traffic.csv", "64,30\n512,31\n")
    assert parse_lengths(other).text != from_csv.text


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.csv", "", "holds no length,count pair"),
        ("a.csv", "length,count\n", "holds no length,count pair"),
        ("a.csv", "64;10\n", "line 1 is '64;10'"),
        ("a.csv", "64,10\n128\n", "line 2 is '128'"),
        ("a.csv", "64,1.5\n", "line 1 is '64,1.5'"),
        ("a.csv", "64,10\nlength,count\n", "line 2 is 'length,count'"),
        ("a.csv", "64,0\n", "length 64 with count 0"),
        ("a.csv", "64,-3\n", "length 64 with count -3"),
        ("a.csv", "-1,3\n", "length -1 with count 3"),
        ("a.json", "[[64, 0]]", "length 64 with count 0"),
        ("a.json", "[]", "holds no length,count pair"),
        ("a.json", "[[64, 10]", "is no JSON"),
        ("a.json", '{"64": 10}', "holds a dict"),
        ("a.json", "[[64, 10], [64, 1.5]]", "item 1 is [64, 1.5]"),
        ("a.json", "[[64, true]]", "item 0 is [64, true]"),
        ("a.json", "[64, 10]", "item 0 is 64"),
        ("a-1a2b3c4d", "64,10\n", "is no .json or .csv file"),
        ("a.txt", "64,10\n", "is no .json or .csv file"),
    ],
)
def test_malformed_histogram_names_file_and_fault(tmp_path, name, content, complaint):
    text = write(tmp_path / name, content)
    with pytest.raises(InvalidLengthsError) as caught:
        parse_lengths(text)
    message = str(caught.value)
    assert complaint in message
    assert message.startswith(str(tmp_path / name))
    assert "\n" not in message


def test_missing_histogram(tmp_path):
    with pytest.raises(InvalidLengthsError, match=r"gone\.csv: cannot be read \(No such file"):
        parse_lengths(f"histogram:{tmp_path / 'gone.csv'}")


def test_binary_histogram(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xff\xfe6\x004\x00")
    with pytest.raises(InvalidLengthsError, match="is no UTF-8 text"):
        parse_lengths(f"histogram:{path}")


@given(
    st.dictionaries(st.integers(0, 4096), st.integers(1, 10**6), min_size=1, max_size=20),
    st.integers(1, 5000),
)
def test_any_histogram_can_be_drawn_from(tmp_path_factory, counts, max_len):
    path = tmp_path_factory.mktemp("histogram") / "counts.json"
    drawn = parse_lengths(write(path, json.dumps(list(counts.items())))).sample(16, max_len, 0)
    assert set(drawn.tolist()) <= {min(length, max_len) for length in counts}


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 8, 17])
@pytest.mark.parametrize("max_len", [1, 2, 7, 64])
def test_regimes_meet_every_length_whatever_the_batch(batch, max_len):
    arrays = regimes(batch, max_len)
    assert all(lens.shape == (batch,) and lens.dtype == np.int32 for lens in arrays)
    wanted = {0, 1, max_len, max_len // 2 + 1, 3 * max_len // 4, -3, max_len + 7}
    assert wanted <= {int(length) for lens in arrays for length in lens}
    for everywhere in (max_len, 0, 1):
        assert any((lens == everywhere).all() for lens in arrays)


def test_batches_show_the_distribution_even_where_a_batch_is_small() -> None:
    alone = parse_lengths("uniform").batches(1, 512, 0)
    assert len(alone) == 8
    assert all(len(batch) == 1 and 128 <= batch[0] <= 512 for batch in alone)
    assert len(parse_lengths("uniform").batches(3, 512, 0)) == 3
    assert parse_lengths("full").batches(2, 64, 0) == ((64, 64),)
    assert parse_lengths("fixed:1,2,3").batches(2, 64, 0) == ((1, 2), (3, 1), (2, 3))
