"""What a row sees shows, however extreme, and what it does not see never does; on the CPU."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import numpy as np
import pytest
import tvm
from extreme_inputs import difference, extreme_inputs, run_on_cpu
from tvm.s_tir import Schedule

from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.derivation import (
    MAX_SCORE,
    PipelinedTiles,
    online_attention,
    pipelined_attention,
)
from prefilltune.tuning.spaces import SPACES
from prefilltune.tuning.spaces.llvm_fused import Packed, schedule
from prefilltune.workloads import (
    TVM_MASK_MODES,
    PrefillShape,
    PrefillSpec,
    Tiles,
    plain_attention,
)
from prefilltune.workloads.elementary import BUILT_IN, POLYNOMIALS

SHAPE = PrefillShape(2, 37, 45)


def _fused(spec: PrefillSpec, shape: PrefillShape) -> Any:
    space = SPACES["llvm_fused"]
    variant = space.variants(spec, shape, resolve_target("llvm", 1))[0]
    sch = Schedule(space.describe(spec, shape, variant), seed=3)
    schedule(sch, packed=cast(Packed, variant["packed"]))
    return sch.mod


_pipelined = partial(
    pipelined_attention, tiles=PipelinedTiles(16, 8, staged_output=True), elementary=POLYNOMIALS
)
KERNELS = {
    "plain": (plain_attention, 1e30),
    "built-in functions": (partial(plain_attention, elementary=BUILT_IN), 1e30),
    "online": (partial(online_attention, tiles=Tiles(4, 3)), 1e30),
    "pipelined": (_pipelined, MAX_SCORE),
    "scheduled": (_fused, 1e30),
}


def _kernel(module: Any) -> Any:
    return tvm.compile(module, target=resolve_target("llvm", 1).target)["main"]


# Every mask in float32; the other dtypes differ in their limits alone, which no mask changes.
@pytest.mark.parametrize(
    ("dtype", "mask_mode"),
    [
        *(("float32", each) for each in TVM_MASK_MODES),
        ("float16", "causal_padded_left"),
        ("bfloat16", "padded"),
    ],
)
@pytest.mark.parametrize("name", KERNELS)
def test_rows_are_nan_where_they_see_it_and_untouched_elsewhere(
    name: str, dtype: str, mask_mode: str
) -> None:
    describe, largest_score = KERNELS[name]
    spec = PrefillSpec(4, 2, 16, dtype, mask_mode)
    kernel = _kernel(describe(spec, SHAPE))
    for what, inputs in extreme_inputs(spec, SHAPE, largest_score):
        found = difference(spec, inputs, *run_on_cpu(kernel, spec, inputs))
        assert not found, f"{what}: {found}"


@pytest.mark.parametrize("factor", [1e5, 1e10, 1e15])
def test_rows_with_scores_out_of_range_are_nan(factor: float) -> None:
    spec = PrefillSpec(4, 2, 16, "float32")
    kernel = _kernel(_pipelined(spec, SHAPE))
    (inputs,) = (each for what, each in extreme_inputs(spec, SHAPE, 1.0) if "apart" in what)
    inputs.query[0] *= factor
    inputs.key[0] *= factor
    output, lse = run_on_cpu(kernel, spec, inputs)
    first = np.s_[0, : SHAPE.qo_len]
    assert np.isnan(lse[first]).mean() > 0.9  # few rows see no score above 0 at all
    assert (np.isnan(lse)[..., None] == np.isnan(output)).all()
    assert not np.isnan(lse[1]).any()


@pytest.mark.parametrize("name", ["plain", "online", "pipelined", "scheduled"])
def test_a_value_seen_by_others_reaches_rows_of_its_tile_alone(name: str) -> None:
    """0 * NaN is NaN, as in PyTorch; in padding it is never multiplied."""
    spec = PrefillSpec(4, 2, 16, "float32", "causal_padded_left")
    kernel = _kernel(KERNELS[name][0](spec, SHAPE))
    (inputs,) = (each for what, each in extreme_inputs(spec, SHAPE, 1.0) if "one row sees" in what)
    inputs.value[0, -1] = np.nan  # of the first sequence's last key, which its last row sees
    output, lse = run_on_cpu(kernel, spec, inputs)
    assert not np.isnan(lse).any()
    assert np.isnan(output[0, -1]).all()
    assert not np.isnan(output[1]).any()
