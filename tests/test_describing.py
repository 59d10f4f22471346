"""Descriptions that share a parse are those that a design space parses for the shape at hand."""

from __future__ import annotations

import itertools

import pytest
import tvm
from tvm_ffi import structural_equal, structural_hash

from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.describing import describe
from prefilltune.tuning.spaces import SPACES, Variant
from prefilltune.workloads import TVM_MASK_MODES, PrefillShape, PrefillSpec, SymbolicShape
from prefilltune.workloads.errors import InvalidShapeError

DTYPES = dict.fromkeys(("cuda_mma", "cuda_mma_k8", "cuda_wgmma"), "float16")
DTYPES["llvm_amx"] = "bfloat16"
#: What a space is for, where any CPU or GPU of its kind is not.
TARGETS = {"llvm_amx": '{"kind": "llvm", "mcpu": "sapphirerapids"}'}
SHAPES = [PrefillShape(1, 1), PrefillShape(3, 17, 300)]


def variants(space: str, spec: PrefillSpec) -> list[Variant]:
    """The first and the last variant of a space."""
    (kind,) = SPACES[space].kinds
    named = TARGETS.get(space, kind)
    target = resolve_target(named, arch="sm_90a") if kind == "cuda" else resolve_target(named, 2)
    found = SPACES[space].variants(spec, PrefillShape(2, 256), target)
    return [found[0], found[-1]]


@pytest.mark.parametrize("mask_mode", TVM_MASK_MODES)
@pytest.mark.parametrize("space", SPACES)
def test_a_description_is_the_one_that_the_space_parses(space: str, mask_mode: str) -> None:
    spec = PrefillSpec(4, 2, 64, DTYPES.get(space, "float32"), mask_mode)
    for variant, shape in itertools.product(variants(space, spec), SHAPES):
        found = describe(space, spec, shape, variant)
        parsed = SPACES[space].describe(spec, shape, variant)
        assert structural_equal(found, parsed), (variant, shape)
        assert structural_hash(found) == structural_hash(parsed), (variant, shape)


SPACE, SPEC = "cuda_simt", PrefillSpec(4, 2, 64, "float32")
VARIANT, _ = variants(SPACE, SPEC)


def test_sizes_that_are_learned_at_the_call_stay_the_callers() -> None:
    sizes = SymbolicShape.fresh()
    function = describe(SPACE, SPEC, sizes, VARIANT)["main"]
    query, key, *_ = function.params
    found = (query.shape[0], query.shape[1], key.shape[1])
    wanted = (sizes.batch, sizes.qo_len, sizes.num_kv)
    assert all(one.same_as(other) for one, other in zip(found, wanted, strict=True))
    assert len(function.params) == 6


def test_lengths_may_be_known_where_the_batch_is_not() -> None:
    sizes = SymbolicShape.fresh()
    found = describe(SPACE, SPEC, SymbolicShape(sizes.batch, 17, 300), VARIANT)["main"]
    query, key, *_ = found.params
    assert query.shape[0].same_as(sizes.batch)
    assert ([*map(int, query.shape[1:])], int(key.shape[1])) == ([17, 4, 64], 300)
    with_batch = tvm.tirx.PrimFunc(
        [*found.params, sizes.batch], found.body, found.ret_type, found.attrs
    )
    shape = PrefillShape(3, 17, 300)
    static = SPACES[SPACE].describe(SPEC, shape, VARIANT)["main"]
    assert structural_equal(with_batch.specialize({sizes.batch: 3}), static)


def test_two_descriptions_share_no_variables() -> None:
    sizes = SymbolicShape.fresh()
    one, other = (describe(SPACE, SPEC, sizes, VARIANT)["main"] for _ in range(2))
    assert not any(a.same_as(b) for a, b in zip(one.params, other.params, strict=True))
    assert not one.body.same_as(other.body)


def test_a_shape_too_large_is_refused() -> None:
    describe(SPACE, SPEC, PrefillShape(1, 64), VARIANT)
    with pytest.raises(InvalidShapeError, match="split the batch"):
        describe(SPACE, SPEC, PrefillShape(1 << 20, 1 << 11), VARIANT)
