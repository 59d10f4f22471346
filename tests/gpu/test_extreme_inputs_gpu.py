"""What a row sees shows, however extreme, and what it does not see never does; on a real GPU."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_schedules import WGMMA_ON_DEMAND, WGMMA_PIPELINES, last_proposal, pipelined
from extreme_inputs import difference, extreme_inputs

from prefilltune.tuning.backends.cuda import cuda_device
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.build import build_library
from prefilltune.tuning.derivation import MAX_SCORE
from prefilltune.tuning.measuring.cpu import tvm_environment
from prefilltune.tuning.measuring.worker import Worker
from prefilltune.tuning.spaces import SPACES
from prefilltune.workloads import TVM_MASK_MODES, Inputs, PrefillShape, PrefillSpec, numpy_dtype

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(cuda_device() is None, reason="no CUDA device that TVM can see"),
]

# The worker imports a function of this file.
_ENVIRONMENT = {**tvm_environment(1), "PYTHONPATH": os.pathsep.join(sys.path)}

#: Spaces, what a variant of each holds besides tiles, and dtypes.
_CASES = [
    *(("cuda_wgmma", each, "bfloat16") for each in (*WGMMA_PIPELINES, *WGMMA_ON_DEMAND)),
    ("cuda_wgmma", WGMMA_PIPELINES[0], "float16"),
    ("cuda_mma", {}, "float16"),
    ("cuda_mma", {}, "bfloat16"),
    ("cuda_simt", {"exchange": True}, "float32"),
]


def run_on_gpu(path: str, spec: PrefillSpec, inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """Output and LSE of a kernel, which were NaN beforehand; for a worker to call."""
    import ml_dtypes  # noqa: F401  (registers bfloat16 with NumPy)
    from tvm.runtime import cuda, load_module, tensor

    device = cuda(0)
    results = (
        tensor(np.full(inputs.query.shape, np.nan, inputs.query.dtype), device),
        tensor(np.full(inputs.query.shape[:3], np.nan, numpy_dtype(spec.lse_type)), device),
    )
    arrays = inputs.arguments
    load_module(path)["main"](*(tensor(each, device) for each in arrays), *results)
    return results[0].numpy(), results[1].numpy()


def _built(
    space: str, pipeline: dict[str, Any], spec: PrefillSpec, shape: PrefillShape, folder: Path
) -> str:
    target = resolve_target("cuda")
    variants = SPACES[space].variants(spec, shape, target)
    if not variants:
        pytest.skip(f"{target.key} lacks the instructions of {space}")
    if pipeline.get("halves") and not any(each.get("halves") for each in variants):
        pytest.skip("all warpgroups see as many keys: none computes with half of a tile")
    variant = pipelined(variants, pipeline)
    assert variant is not None
    proposal = last_proposal(space, variant, spec, shape, target)
    return build_library(proposal.module, target.target, str(folder / "kernel.so"))


@pytest.mark.parametrize("mask_mode", TVM_MASK_MODES)
@pytest.mark.parametrize(("space", "pipeline", "dtype"), _CASES, ids=str)
def test_rows_are_nan_where_they_see_it_and_untouched_elsewhere(
    space: str, pipeline: dict[str, Any], dtype: str, mask_mode: str, tmp_path: Path
) -> None:
    spec, shape = PrefillSpec(4, 2, 64, dtype, mask_mode), PrefillShape(2, 301, 333)
    path = _built(space, pipeline, spec, shape, tmp_path)
    with Worker(_ENVIRONMENT) as runner:
        for what, inputs in extreme_inputs(spec, shape, MAX_SCORE):
            outcome = runner.call(run_on_gpu, path, spec, inputs, timeout=120)
            assert outcome.status == "ok", outcome.detail
            found = difference(spec, inputs, *outcome.value)
            assert not found, f"{what}: {found}"


def test_rows_with_scores_out_of_range_are_nan(tmp_path: Path) -> None:
    spec, shape = PrefillSpec(4, 2, 64, "bfloat16"), PrefillShape(2, 301)
    path = _built("cuda_mma", {}, spec, shape, tmp_path)
    (inputs,) = (each for what, each in extreme_inputs(spec, shape, 1.0) if "apart" in what)
    for factor in (1e5, 1e10, 1e15):
        inputs.query[0] *= factor
        inputs.key[0] *= factor
        with Worker(_ENVIRONMENT) as runner:
            outcome = runner.call(run_on_gpu, path, spec, inputs, timeout=120)
        output, lse = outcome.value
        assert np.isnan(lse[0]).mean() > 0.9
        assert (np.isnan(lse)[..., None] == np.isnan(output.astype("float32"))).all()
        assert not np.isnan(lse[1, :297]).any()
