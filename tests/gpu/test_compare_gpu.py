"""Comparing on a GPU with PyTorch's peers; TVM's hand-written kernel stands for a tuned one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.build import build_library
from prefilltune.tuning.comparing.device_facts import device_facts
from prefilltune.tuning.comparing.side_by_side import (
    PEER_TOLERANCE,
    measure_side_by_side,
    warm_up_peers,
)
from prefilltune.tuning.comparing.torch_peers import PEERS
from prefilltune.tuning.errors import UnsupportedTargetError
from prefilltune.tuning.measuring.kernels import call
from prefilltune.tuning.measuring.worker import Worker
from prefilltune.tuning.target import ResolvedTarget
from prefilltune.workloads import TVM_MASK_MODES, PrefillShape, PrefillSpec, masked_baseline

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not find_spec("torch"), reason="needs the extra [torch]"),
]

SPEC = PrefillSpec(4, 2, 64)
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
    spec = dataclasses.replace(SPEC, dtype=dtype, mask_mode=mask_mode)
    libraries = {
        name: build_library(
            masked_baseline(each, target.target), target.target, str(tmp_path / f"{name}.so")
        )
        for name, each in (("right", spec), ("wrong", dataclasses.replace(spec, sm_scale=0.5)))
    }
    timed = (spec, SHAPE, BATCHES, 0)
    call(worker, warm_up_peers, *timed, "cuda")
    results = call(worker, measure_side_by_side, libraries, *timed, GEMM_SIZE, "cuda")
    assert set(results) == {*libraries, *(peer.name for peer in PEERS), "gemm"}
    assert all(bool(each.seconds) != bool(each.failure) for each in results.values()), results
    for name in ("right", "torch_sdpa_mask", "torch_flex"):
        assert results[name].failure == ""
        assert results[name].error <= PEER_TOLERANCE[dtype]
    assert "wrong on valid rows" in results["wrong"].failure


def test_facts_of_the_device(worker: Worker) -> None:
    facts = call(worker, device_facts, "float16", GEMM_SIZE)
    assert {"torch", "cuda", "cudnn"} <= set(facts.versions)
    assert all(mhz > 0 for mhz in facts.clocks_mhz.values())
