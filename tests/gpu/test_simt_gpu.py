"""Kernels without tensor cores on a real GPU: right for any dtype, length, mask and padding."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from prefilltune.tuning.backends.cuda import cuda_device
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.build import build_library
from prefilltune.tuning.measuring import cuda as measure_cuda
from prefilltune.tuning.measuring.cpu import tvm_environment
from prefilltune.tuning.measuring.worker import Worker
from prefilltune.tuning.search.strategies import make_strategy
from prefilltune.tuning.search.strategies.context import tune_context
from prefilltune.tuning.spaces import SPACES
from prefilltune.tuning.target import ResolvedTarget
from prefilltune.workloads import TOLERANCE, PrefillShape, PrefillSpec, regimes

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(cuda_device() is None, reason="no CUDA device that TVM can see"),
]

SIMT = SPACES["cuda_simt"]

VARIANTS = 3
BATCH = 4


@pytest.fixture(scope="module")
def target() -> ResolvedTarget:
    return resolve_target("cuda")


@pytest.fixture(scope="module")
def runner() -> Iterator[Worker]:
    with Worker(tvm_environment(1)) as worker:
        yield worker


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (PrefillSpec(4, 2, 64, "float32", "padded"), PrefillShape(BATCH, 301)),
        (PrefillSpec(4, 2, 64, "float32", "causal_padded_left"), PrefillShape(BATCH, 301, 77)),
        (PrefillSpec(2, 2, 80, "float32", "causal_padded_left"), PrefillShape(BATCH, 301)),
        (PrefillSpec(4, 2, 128, "float32", "causal_padded_left"), PrefillShape(BATCH, 77, 301)),
        (PrefillSpec(2, 1, 256, "float32", "padded"), PrefillShape(BATCH, 77, 301)),
        (PrefillSpec(4, 2, 64, "float16", "causal_padded_left"), PrefillShape(BATCH, 301)),
        (PrefillSpec(4, 2, 128, "float16", "padded"), PrefillShape(BATCH, 301, 77)),
        (PrefillSpec(2, 1, 80, "bfloat16", "causal_padded_left"), PrefillShape(BATCH, 77, 301)),
        (PrefillSpec(2, 2, 32, "float32", "padded"), PrefillShape(BATCH, 1, 5)),
    ],
    ids=str,
)
def test_kernels_compute_attention(
    spec: PrefillSpec, shape: PrefillShape, target: ResolvedTarget, runner: Worker, tmp_path: Path
) -> None:
    length = max(shape.qo_len, shape.num_kv)
    lens = tuple(tuple(map(int, each)) for each in regimes(BATCH, length))
    for index, variant in enumerate(SIMT.variants(spec, shape, target)[:VARIANTS]):
        module = SIMT.describe(spec, shape, variant)
        generator = SIMT.generator(spec, variant)
        context = tune_context(module, target.target, generator, "simt", 1, 1)
        proposal, *_ = make_strategy(context, None, 1, index, "simt").propose(1)
        path = build_library(proposal.module, target.target, str(tmp_path / f"{index}.so"))
        arguments = (path, spec, shape, lens, index)
        outcome = runner.call(measure_cuda.check_kernel, *arguments, timeout=120)
        assert outcome.status == "ok", outcome.detail
        assert outcome.value <= TOLERANCE[spec.dtype], variant
