"""Tensor-core kernels on a real GPU: every decision, head_dim, mask and length computes right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cuda_schedules import proposals

from prefilltune.tuning.build import build_library
from prefilltune.tuning.measure import tvm_environment
from prefilltune.tuning.measure_cuda import check_kernel
from prefilltune.tuning.spaces import SPACES
from prefilltune.tuning.target import cuda_device, resolve_target
from prefilltune.tuning.worker import Worker
from prefilltune.workloads import TOLERANCE, PrefillShape, PrefillSpec

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(cuda_device() is None, reason="no CUDA device that TVM can see"),
]

SHAPES = (PrefillShape(5, 301), PrefillShape(5, 77, 301), PrefillShape(5, 1))


def _lens(shape: PrefillShape) -> list[tuple[int, ...]]:
    full = shape.num_kv
    return [
        (full,) * 5,
        (0, 1, full, full // 2, 64),
        (1, 2, 63, 65, full - 1),
        (-3, full + 9, 128, 129, 0),
    ]


@pytest.fixture(scope="module")
def runner() -> Iterator[Worker]:
    with Worker(tvm_environment(1)) as worker:
        yield worker


@pytest.mark.parametrize("mask_mode", ["padded", "causal_padded_left"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("space", ["cuda_wgmma", "cuda_mma"])
def test_first_variants_of_every_dtype_and_head_dim(
    space: str, shape: PrefillShape, mask_mode: str, runner: Worker, tmp_path: Path
) -> None:
    target = resolve_target("cuda")
    for head_dim in (32, 64, 80, 96, 128, 192, 256):
        for dtype in ("float16", "bfloat16"):
            spec = PrefillSpec(4, 2, head_dim, dtype, mask_mode)
            variants = SPACES[space].variants(spec, shape, target)
            if not variants:
                pytest.skip(f"{target.key} lacks the instructions of {space}")
            found = proposals(space, dict(variants[0]), spec, shape, target)
            proposal = found[len(dtype) % len(found)]
            path = build_library(
                proposal.module, target.target, str(tmp_path / f"{head_dim}{dtype}.so")
            )
            outcome = runner.call(check_kernel, path, spec, shape, _lens(shape), 0, timeout=120)
            assert outcome.status == "ok", outcome.detail
            assert outcome.value <= TOLERANCE[dtype], (variants[0], proposal.trace[1])


@pytest.mark.parametrize("space", ["cuda_wgmma", "cuda_mma"])
def test_every_decision_of_a_variant(space: str, runner: Worker, tmp_path: Path) -> None:
    spec, shape, target = PrefillSpec(4, 4, 64, "float16"), SHAPES[0], resolve_target("cuda")
    if not SPACES[space].variants(spec, shape, target):
        pytest.skip(f"{target.key} lacks the instructions of {space}")
    found = proposals(space, {"q_tile": 64, "kv_tile": 64}, spec, shape, target)
    for index, proposal in enumerate(found):
        path = build_library(proposal.module, target.target, str(tmp_path / f"{index}.so"))
        outcome = runner.call(check_kernel, path, spec, shape, _lens(shape), 1, timeout=120)
        assert outcome.status == "ok", outcome.detail
        assert outcome.value <= TOLERANCE["float16"], proposal.trace[1]
