"""The TIR descriptions, compiled unscheduled for llvm, against the NumPy reference."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
import tvm_ffi
from description_forms import DESCRIPTIONS
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import written_error
from spec_strategies import masks_and_scores

from prefilltune.tuning.derivation import (
    online_attention,
)
from prefilltune.workloads import (
    DTYPES,
    TOLERANCE,
    TVM_MASK_MODES,
    PrefillShape,
    PrefillSpec,
    Tiles,
    empty_lse,
    make_inputs,
    plain_attention,
    reference_attention,
    regimes,
)
from prefilltune.workloads.elementary import BUILT_IN, POLYNOMIALS, PTX
from prefilltune.workloads.errors import InvalidShapeError

SHAPES = [PrefillShape(3, 7), PrefillShape(2, 5, 11), PrefillShape(2, 11, 5)]

# Every shape in float32, and one of the 16-bit types, which only round elsewhere.
DTYPES_AND_SHAPES = [
    pytest.param(dtype, shape, id=f"{dtype}-{shape}")
    for dtype in DTYPES
    for shape in (SHAPES if dtype == "float32" else SHAPES[1:2])
]


def compile_for_cpu(module):
    return tvm.compile(module, target=tvm.target.Target("llvm"))


def run(library, inputs):
    """Call ``main`` with outputs that hold NaN beforehand; returns output and LSE."""
    query = inputs.query
    outputs = (
        np.full(query.shape, np.nan, query.dtype),
        np.full(query.shape[:3], np.nan, query.dtype),
    )
    arguments = (*inputs.arguments, *outputs)
    tensors = [tvm.runtime.tensor(array) for array in arguments]
    library["main"](*tensors)
    return tensors[-2].numpy(), tensors[-1].numpy()


def assert_matches_reference(library, spec, inputs):
    output, lse = run(library, inputs)
    expected = reference_attention(spec, *inputs.arguments)
    where = f"{spec}, valid_lens {inputs.valid_lens.tolist()}"
    for actual, each in zip((output, lse), expected, strict=True):
        error = written_error(spec, inputs.valid_lens, actual, each)
        assert error <= TOLERANCE[spec.dtype], where
    without_keys = expected[1] == empty_lse(spec.lse_type)
    assert (output[without_keys] == 0).all(), where
    assert (lse[without_keys] == empty_lse(spec.lse_type)).all(), where


@pytest.mark.parametrize(("dtype", "shape"), DTYPES_AND_SHAPES)
@pytest.mark.parametrize("mask_mode", TVM_MASK_MODES)
@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_matches_reference_in_every_regime(name, mask_mode, dtype, shape):
    spec = PrefillSpec(4, 2, 6, dtype, mask_mode)
    library = compile_for_cpu(DESCRIPTIONS[name](spec, shape))
    for poison_padding in (False, True):
        for seed, lens in enumerate(regimes(shape.batch, max(shape.qo_len, shape.num_kv))):
            inputs = make_inputs(spec, shape, lens, seed, poison_padding=poison_padding)
            assert_matches_reference(library, spec, inputs)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_online_with_operands_as_stored(dtype):
    spec, shape = PrefillSpec(4, 2, 16, dtype, "causal_padded_left"), PrefillShape(3, 21)
    library = compile_for_cpu(online_attention(spec, shape, Tiles(8, 8, operand_dtype=dtype)))
    for seed, lens in enumerate(regimes(shape.batch, shape.qo_len)):
        inputs = make_inputs(spec, shape, lens, seed, poison_padding=True)
        assert_matches_reference(library, spec, inputs)


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_scores_far_apart(name):
    """A late, much larger score takes all the weight, however many smaller ones there are."""
    spec, shape = PrefillSpec(1, 1, 1, "float32", "padded", 1.0), PrefillShape(1, 256)
    inputs = make_inputs(spec, shape, np.array([256]), seed=0)
    inputs.query[:] = 1
    inputs.key[:] = -300
    inputs.key[0, :8, 0, 0] = [-300, 0, 300, 10, -3000, 3000, 2990, -30000]
    inputs.value[:] = 1
    inputs.value[0, 5] = 0
    assert_matches_reference(compile_for_cpu(DESCRIPTIONS[name](spec, shape)), spec, inputs)


@pytest.mark.parametrize("name", DESCRIPTIONS)
@pytest.mark.parametrize("elementary", [POLYNOMIALS, PTX])
def test_one_function_with_the_common_signature(name, elementary):
    spec, shape = PrefillSpec(4, 2, 6, "bfloat16"), PrefillShape(3, 7, 9)
    module = DESCRIPTIONS[name](spec, shape, elementary=elementary)
    assert [var.name_hint for var in module.get_global_vars()] == ["main"]
    function = module["main"]
    assert [(p.name, tuple(p.shape), str(p.dtype)) for p in function.params] == [
        ("q", (3, 7, 4, 6), "bfloat16"),
        ("k", (3, 9, 2, 6), "bfloat16"),
        ("v", (3, 9, 2, 6), "bfloat16"),
        ("valid_lens", (3,), "int32"),
        ("output", (3, 7, 4, 6), "bfloat16"),
        ("lse", (3, 7, 4), "bfloat16"),
    ]
    assert function.attrs["global_symbol"] == "main"
    assert function.attrs["tirx.noalias"]


@st.composite
def workloads(draw):
    kv_heads = draw(st.integers(1, 2))
    spec = PrefillSpec(
        kv_heads * draw(st.integers(1, 3)),
        kv_heads,
        draw(st.integers(1, 9)),
        draw(st.sampled_from(DTYPES)),
        sm_scale=draw(st.none() | st.floats(0.05, 1.0)),
        **draw(masks_and_scores()),
    )
    lens = draw(st.lists(st.integers(-2, 25), min_size=1, max_size=4))
    shape = PrefillShape(len(lens), draw(st.integers(1, 20)), draw(st.integers(1, 20)))
    tiles = Tiles(draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    return spec, shape, tiles, np.array(lens)


@settings(max_examples=settings().max_examples // 8)
@given(workload=workloads(), seed=st.integers(0, 2**16))
def test_descriptions_agree_on_any_workload(workload, seed):
    spec, shape, tiles, lens = workload
    inputs = make_inputs(spec, shape, lens, seed, poison_padding=True)
    plain = compile_for_cpu(plain_attention(spec, shape))
    online = compile_for_cpu(online_attention(spec, shape, tiles))
    for library in (plain, online):
        assert_matches_reference(library, spec, inputs)
    for from_plain, from_online in zip(run(plain, inputs), run(online, inputs), strict=True):
        expected = from_plain.astype(np.float64)
        assert written_error(spec, lens, from_online, expected) <= TOLERANCE[spec.dtype]


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_tensors_beyond_32_bit_indices_are_refused(name):
    spec, shape = PrefillSpec(64, 8, 128, "float16"), PrefillShape(64, 4096)
    with pytest.raises(InvalidShapeError, match=r"2147483648 elements.*split the batch"):
        DESCRIPTIONS[name](spec, shape)


@pytest.mark.parametrize(("kind", "form"), [("llvm", POLYNOMIALS), ("cuda", PTX), ("c", BUILT_IN)])
def test_a_kind_of_target_may_be_named_for_its_form(kind, form):
    spec, shape = PrefillSpec(4, 2, 6), PrefillShape(3, 7)
    named, given = plain_attention(spec, shape, kind), plain_attention(spec, shape, form)
    assert tvm_ffi.structural_equal(named, given)
