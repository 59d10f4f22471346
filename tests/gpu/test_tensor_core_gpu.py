"""Tensor-core kernels on a real GPU: every decision, head_dim, mask and length computes right."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from cuda_schedules import (
    MMA_PIPELINES,
    WGMMA_DIRECT,
    WGMMA_HALVES,
    WGMMA_HEADS,
    WGMMA_ON_DEMAND,
    WGMMA_PIPELINES,
    WGMMA_SECTIONS,
    WGMMA_TURNS,
    pipelined,
    proposals,
)

from prefilltune.tuning.backends.cuda import cuda_device
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.build import build_library
from prefilltune.tuning.measuring.cpu import tvm_environment
from prefilltune.tuning.measuring.cuda import check_kernel
from prefilltune.tuning.measuring.worker import Worker
from prefilltune.tuning.spaces import SPACES
from prefilltune.workloads import TOLERANCE, PrefillShape, PrefillSpec

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(cuda_device() is None, reason="no CUDA device that TVM can see"),
]

SPACES_HERE = ("cuda_wgmma", "cuda_mma", "cuda_mma_k8")
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


def _pipelines(space: str) -> Sequence[dict[str, Any]]:
    return WGMMA_PIPELINES if space == "cuda_wgmma" else MMA_PIPELINES


@pytest.mark.parametrize("mask_mode", ["padded", "causal_padded_left"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("space", SPACES_HERE)
def test_first_variants_of_every_dtype_and_head_dim(
    space: str, shape: PrefillShape, mask_mode: str, runner: Worker, tmp_path: Path
) -> None:
    target, built = resolve_target("cuda"), 0
    for head_dim, (dtype, first) in itertools.product(
        (32, 64, 80, 96, 128, 192, 256), (("float16", 0), ("bfloat16", 1))
    ):
        if (space, dtype) == ("cuda_mma_k8", "bfloat16"):
            continue
        spec = PrefillSpec(4, 2, head_dim, dtype, mask_mode)
        variants = SPACES[space].variants(spec, shape, target)
        if not variants:
            pytest.skip(f"{target.key} lacks the instructions of {space}")
        pipelines = _pipelines(space)
        for pipeline in pipelines[first % len(pipelines) :: 2]:
            variant = pipelined(variants, pipeline) or dict(variants[0])
            found = proposals(space, variant, spec, shape, target)
            # As unlike as they come, in turns: loads one tile ahead, and as many as there may be.
            proposal, built = found[-(built % 2)], built + 1
            path = build_library(
                proposal.module, target.target, str(tmp_path / f"{time.monotonic_ns()}.so")
            )
            outcome = runner.call(check_kernel, path, spec, shape, _lens(shape), 0, timeout=120)
            assert outcome.status == "ok", outcome.detail
            assert outcome.value <= TOLERANCE[dtype], (spec, variant, proposal.trace[1])


@pytest.mark.parametrize("mask_mode", ["padded", "causal_padded_left"])
@pytest.mark.parametrize(
    ("space", "pipeline"),
    [
        *((space, each) for space in SPACES_HERE for each in _pipelines(space)),
        *(
            ("cuda_wgmma", each)
            for each in (
                *WGMMA_TURNS,
                *WGMMA_DIRECT,
                *WGMMA_HALVES,
                *WGMMA_ON_DEMAND,
                *WGMMA_SECTIONS,
                *WGMMA_HEADS,
            )
        ),
    ],
    ids=str,
)
def test_every_decision_of_a_variant(
    space: str, pipeline: dict[str, Any], mask_mode: str, runner: Worker, tmp_path: Path
) -> None:
    spec, shape = PrefillSpec(4, 1, 64, "float16", mask_mode), SHAPES[0]
    target = resolve_target("cuda")
    if not SPACES[space].variants(spec, shape, target):
        pytest.skip(f"{target.key} lacks the instructions of {space}")
    if pipeline.get("halves") and mask_mode == "padded":
        pytest.skip("all rows see the same keys")
    large = pipeline in WGMMA_TURNS or pipeline.get("halves", False)
    variant = {"q_tile": 128 if large else 64, "kv_tile": 64, **pipeline}
    found = proposals(space, variant, spec, shape, target)
    for index, proposal in enumerate(found):
        path = build_library(proposal.module, target.target, str(tmp_path / f"{index}.so"))
        outcome = runner.call(check_kernel, path, spec, shape, _lens(shape), 1, timeout=120)
        assert outcome.status == "ok", outcome.detail
        assert outcome.value <= TOLERANCE["float16"], proposal.trace[1]
