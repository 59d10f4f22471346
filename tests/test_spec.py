"""Specs and shapes: their ranges, their canonical texts, and what importing them costs."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from spec_strategies import masks_and_scores

from prefilltune import workloads
from prefilltune.workloads import (
    DTYPES,
    InvalidShapeError,
    InvalidSpecError,
    PrefillShape,
    PrefillSpec,
    PrefilltuneError,
)

sizes = st.integers(1, 10_000)


@st.composite
def specs(draw):
    kv_heads, group = draw(st.integers(1, 64)), draw(st.integers(1, 16))
    return PrefillSpec(
        kv_heads * group,
        kv_heads,
        draw(st.integers(1, 512)),
        draw(st.sampled_from(DTYPES)),
        sm_scale=draw(st.none() | st.floats(1e-9, 1e9)),
        lse_dtype=draw(st.sampled_from([None, "float32"])),
        **draw(masks_and_scores()),
    )


@given(specs())
def test_spec_text_round_trips(spec):
    assert PrefillSpec.parse(str(spec)) == spec


def test_absent_scale_is_the_usual_one():
    spec = PrefillSpec(8, 2, 64)
    assert spec.scale == 0.125
    assert spec == PrefillSpec(8, 2, 64, sm_scale=0.125)
    assert hash(spec) == hash(PrefillSpec(8, 2, 64, sm_scale=0.125))


@pytest.mark.parametrize("head_dim", [40, 72, 96, 128, 256])
def test_a_scale_that_differs_from_the_usual_one_by_rounding_is_it(head_dim: int):
    usual = PrefillSpec(8, 2, head_dim)
    power = head_dim**-0.5
    for scale in (power, float(np.float32(power)), usual.scale * (1 - 1e-7)):
        assert PrefillSpec(8, 2, head_dim, sm_scale=scale) == usual
    assert PrefillSpec(8, 2, head_dim, sm_scale=power * 1.0001) != usual


def test_the_lse_is_of_the_dtype_of_the_rest_or_float32():
    spec = PrefillSpec(8, 2, 64, "float16")
    wide = PrefillSpec(8, 2, 64, "float16", lse_dtype="float32")
    assert (spec.lse_type, wide.lse_type) == ("float16", "float32")
    assert spec == PrefillSpec(8, 2, 64, "float16", lse_dtype="float16")
    untouched = [replace(each, padding_output="untouched") for each in (spec, wide)]
    assert spec.same_kernels == (spec, wide, *untouched)
    assert wide.same_kernels == (wide, spec, *reversed(untouched))
    single = PrefillSpec(8, 2, 64, "float32")
    assert single.same_kernels == (single, replace(single, padding_output="untouched"))
    packed = PrefillSpec(8, 2, 64, "float32", layout="packed")
    sides = [replace(single, padding=side) for side in ("right", "left")]
    assert packed.same_kernels == (
        packed,
        *(replace(each, padding_output=at) for each in sides for at in ("untouched", "zero")),
    )


def test_an_end_of_a_window_beyond_all_tensors_is_open():
    for end in (2**30, 2**31 - 1, 2**31, 2**64):
        assert PrefillSpec(2, 1, 16, window=(end, 0)) == PrefillSpec(2, 1, 16, window=(None, 0))
        assert PrefillSpec(2, 1, 16, window=(8, end)) == PrefillSpec(2, 1, 16, window=(8, None))
    assert PrefillSpec(2, 1, 16, window=(2**30 - 1, 0)).window == (2**30 - 1, 0)


def test_group_size():
    assert PrefillSpec(32, 8, 128).group_size == 4


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"num_qo_heads": 0}, "num_qo_heads is 0"),
        ({"num_kv_heads": -1}, "num_kv_heads is -1"),
        ({"head_dim": 64.0}, "head_dim is 64.0"),
        ({"head_dim": True}, "head_dim is True"),
        ({"num_kv_heads": 5}, "num_kv_heads 5 does not divide num_qo_heads 12"),
        ({"dtype": "float64"}, "dtype 'float64' is unknown"),
        ({"mask_mode": "causal"}, "mask mode 'causal' is unknown"),
        ({"sm_scale": 0.0}, "sm_scale is 0.0"),
        ({"sm_scale": float("nan")}, "sm_scale is nan"),
        ({"sm_scale": float("inf")}, "sm_scale is inf"),
        ({"dtype": "float16", "lse_dtype": "bfloat16"}, "LSE of float16 attention cannot be"),
        ({"dtype": "float32", "lse_dtype": "float16"}, "choose float32"),
    ],
)
def test_invalid_spec_names_its_field(fields, complaint):
    valid = {"num_qo_heads": 12, "num_kv_heads": 12, "head_dim": 64}
    with pytest.raises(InvalidSpecError) as caught:
        PrefillSpec(**{**valid, **fields})
    assert complaint in str(caught.value)
    assert isinstance(caught.value, PrefilltuneError)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "padded",
        "padded_hq12_hkv12_d64_float32",
        "padded_hq12_hkv12_d64_float32_s0.125 ",
        "padded_hq12_hkv12_d64_float32_s1-2",
        "padded_hq12_hkv5_d64_float32_s0.125",
        "padded_hq12_hkv12_d64_float16_s0.125_lsefloat64",
        "padded_hq12_hkv12_d64_float16_s0.125_lse",
        "triangular_hq12_hkv12_d64_float32_s0.125",
    ],
)
def test_malformed_spec_text(text):
    with pytest.raises(InvalidSpecError):
        PrefillSpec.parse(text)


@given(sizes, sizes, st.none() | sizes)
def test_shape_text_round_trips(batch, qo_len, kv_len):
    shape = PrefillShape(batch, qo_len, kv_len)
    assert PrefillShape.parse(str(shape)) == shape
    assert PrefillShape.parse(f"{batch}x{qo_len}" + (f"x{kv_len}" if kv_len else "")) == shape


def test_absent_kv_len_is_the_query_length():
    assert PrefillShape(4, 128) == PrefillShape(4, 128, 128)
    assert PrefillShape(4, 128).num_kv == 128


@pytest.mark.parametrize("text", ["", "4", "4x", "4x128x128x1", "b4_q128", "4X128", "4x1.5"])
def test_malformed_shape_text(text):
    with pytest.raises(InvalidShapeError, match="is not a shape"):
        PrefillShape.parse(text)


@pytest.mark.parametrize(
    ("text", "field"), [("0x128", "batch"), ("4x-1", "qo_len"), ("b4_q128_kv0", "kv_len")]
)
def test_shape_out_of_range_names_its_field(text, field):
    with pytest.raises(InvalidShapeError, match=f"{field} is"):
        PrefillShape.parse(text)


def test_import_leaves_tvm_alone():
    code = "import sys, prefilltune.workloads; sys.exit('tvm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_public_name_is_there():
    for name in workloads.__all__:
        assert getattr(workloads, name) is not None
    misspelt = "online_atention"
    with pytest.raises(AttributeError, match=f"no attribute '{misspelt}'"):
        getattr(workloads, misspelt)
