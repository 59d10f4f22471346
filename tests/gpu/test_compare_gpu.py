"""Comparing on a GPU with PyTorch's peers; some kernel or other stands for a tuned one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from cuda_schedules import last_proposal

from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.build import build_library
from prefilltune.tuning.comparing.device_facts import device_facts
from prefilltune.tuning.comparing.peers.registry import peers_on_a_gpu
from prefilltune.tuning.comparing.side_by_side import (
    PEER_TOLERANCE,
    bias_slack,
    largest_kernel_error,
    measure_side_by_side,
    warm_up_peers,
)
from prefilltune.tuning.errors import UnsupportedTargetError
from prefilltune.tuning.measuring.kernels import call
from prefilltune.tuning.measuring.worker import Worker
from prefilltune.tuning.spaces import SPACES
from prefilltune.tuning.target import ResolvedTarget
from prefilltune.workloads import (
    TOLERANCE,
    TVM_MASK_MODES,
    PrefillShape,
    PrefillSpec,
    masked_baseline,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not find_spec("torch"), reason="needs the extra [torch]"),
]

CHOSEN: dict[str, dict[str, Any]] = {
    "padded_left": {"padding": "left"},
    "causal_padded": {"window": (None, 0)},
    "window": {"window": (64, 64)},
    "causal_window": {"padding": "left", "window": (100, 0)},
    "softcap": {"softcap": 5},
    "bias": {"padding": "left", "bias": "relative"},
    "all": {"padding": "left", "window": (64, 30), "softcap": 5, "bias": "relative"},
}
SHAPE = PrefillShape(2, 256)
BATCHES = [(256, 100), (31, 200)]
GEMM_SIZE = 512


@pytest.fixture(scope="module")
def target() -> ResolvedTarget:
    try:
        return resolve_target("cuda")
    except UnsupportedTargetError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def worker(target: ResolvedTarget) -> Iterator[Worker]:
    with Worker() as started:
        yield started


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("mask_mode", TVM_MASK_MODES)
def test_peers_and_kernels_are_right_and_timed(
    dtype: str, mask_mode: str, worker: Worker, target: ResolvedTarget, tmp_path: Path
) -> None:
    spec = PrefillSpec(4, 2, 64, dtype, mask_mode)
    libraries = {
        name: build_library(
            masked_baseline(each, target.target), target.target, str(tmp_path / f"{name}.so")
        )
        for name, each in (("right", spec), ("wrong", dataclasses.replace(spec, sm_scale=0.5)))
    }
    timed = (spec, SHAPE, BATCHES, 0)
    call(worker, warm_up_peers, *timed, "cuda")
    results = call(worker, measure_side_by_side, libraries, *timed, GEMM_SIZE, "cuda")
    peers = peers_on_a_gpu(spec, SHAPE, BATCHES)
    assert set(results) == {*libraries, *(peer.name for peer in peers), "gemm"}
    assert all(bool(each.seconds) != bool(each.failure) for each in results.values()), results
    for name in ("right", "torch_sdpa_mask", "torch_sdpa_mask_filled", "torch_flex"):
        assert results[name].failure == ""
        assert results[name].error <= PEER_TOLERANCE[dtype]
        assert min(results[name].cold_seconds) > 0
    assert "wrong on valid rows" in results["wrong"].failure


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("chosen", CHOSEN)
def test_peers_compute_each_choice_or_say_that_they_do_not(
    dtype: str, chosen: str, worker: Worker, target: ResolvedTarget, tmp_path: Path
) -> None:
    spec = PrefillSpec(4, 2, 64, dtype, **CHOSEN[chosen])
    variant, *_ = SPACES["cuda_mma"].variants(spec, SHAPE, target)
    proposal = last_proposal("cuda_mma", dict(variant), spec, SHAPE, target)
    tuned = build_library(proposal.module, target.target, str(tmp_path / "tuned.so"))
    timed = (spec, SHAPE, BATCHES, 0)
    assert call(worker, largest_kernel_error, tuned, *timed, "cuda") <= TOLERANCE[dtype]
    call(worker, warm_up_peers, *timed, "cuda")
    results = call(worker, measure_side_by_side, {"tuned": tuned}, *timed, GEMM_SIZE, "cuda")
    peers = peers_on_a_gpu(spec, SHAPE, BATCHES)
    assert set(results) == {"tuned", *(peer.name for peer in peers), "gemm"}
    for peer in peers:
        if lacking := peer.lacks(spec):
            assert results[peer.name].failure == lacking
        assert "wrong" not in results[peer.name].failure
    for name in ("tuned", "torch_flex", *(["torch_sdpa_mask"] if spec.softcap is None else [])):
        assert results[name].failure == "", (name, results[name])
        assert results[name].error <= PEER_TOLERANCE[dtype] * bias_slack(spec)
        assert min(results[name].seconds) > 0


def test_facts_of_the_device(worker: Worker) -> None:
    facts = call(worker, device_facts, "float16", GEMM_SIZE)
    assert {"torch", "cuda", "cudnn"} <= set(facts.versions)
    assert all(mhz > 0 for mhz in facts.clocks_mhz.values())
