"""What checks and times PyTorch's peers, with all but CUDA itself: on a CPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.build import build_library
from prefilltune.tuning.comparing.side_by_side import largest_kernel_error, measure_side_by_side
from prefilltune.tuning.comparing.torch_peers import PEERS
from prefilltune.tuning.errors import WorkerFailedError
from prefilltune.tuning.measuring.kernels import call
from prefilltune.tuning.measuring.worker import Worker
from prefilltune.workloads import (
    TOLERANCE,
    TVM_MASK_MODES,
    PrefillShape,
    PrefillSpec,
    check_batches,
    plain_attention,
)

pytestmark = pytest.mark.skipif(not find_spec("torch"), reason="needs the extra [torch]")

SPEC = PrefillSpec(4, 2, 16, "float32")
SHAPES = [PrefillShape(3, 17), PrefillShape(2, 9, 20), PrefillShape(2, 20, 9)]
GEMM_SIZE = 32


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as started:
        yield started


def _built(spec: PrefillSpec, shape: PrefillShape, folder: Path) -> str:
    module = plain_attention(spec, shape)
    return build_library(module, resolve_target("llvm", 1).target, str(folder / "kernel.so"))


@pytest.mark.parametrize("mask_mode", TVM_MASK_MODES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_right_kernel_agrees_with_the_reference_on_the_device_in_every_regime(
    mask_mode: str, shape: PrefillShape, worker: Worker, tmp_path: Path
) -> None:
    spec = dataclasses.replace(SPEC, mask_mode=mask_mode)
    batches = check_batches(shape.batch, max(shape.qo_len, shape.num_kv), 1)
    path = _built(spec, shape, tmp_path)
    error = call(worker, largest_kernel_error, path, spec, shape, batches, 0, "cpu")
    assert error <= TOLERANCE["float32"]


def test_a_wrong_kernel_has_an_error(worker: Worker, tmp_path: Path) -> None:
    shape = SHAPES[0]
    path = _built(dataclasses.replace(SPEC, sm_scale=0.5), shape, tmp_path)
    error = call(worker, largest_kernel_error, path, SPEC, shape, [(17, 5, 1)], 0, "cpu")
    assert error > 0.01


@pytest.mark.parametrize("mask_mode", TVM_MASK_MODES)
@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
def test_everything_is_timed_or_has_a_reason(
    mask_mode: str, shape: PrefillShape, worker: Worker, tmp_path: Path
) -> None:
    spec = dataclasses.replace(SPEC, mask_mode=mask_mode)
    other_scale = dataclasses.replace(spec, sm_scale=0.5)
    (tmp_path / "wrong").mkdir()
    libraries = {
        "tuned": _built(spec, shape, tmp_path),
        "wrong": _built(other_scale, shape, tmp_path / "wrong"),
        "missing": str(tmp_path / "missing.so"),
    }
    batches = [(9, 5, 3)[: shape.batch], (1, 2, 7)[: shape.batch]]
    results = call(
        worker, measure_side_by_side, libraries, spec, shape, batches, 0, GEMM_SIZE, "cpu"
    )
    assert set(results) == {*libraries, *(peer.name for peer in PEERS), "gemm"}
    assert all(bool(each.seconds) != bool(each.failure) for each in results.values())
    for name in ("tuned", "torch_sdpa_mask", "torch_flex"):
        assert results[name].error <= 1e-5
        assert min(results[name].seconds) > 0
    assert "wrong on valid rows" in results["wrong"].failure
    assert "missing.so" in results["missing"].failure
    assert "CPU" in results["torch_varlen_with_packing"].failure
    assert results["torch_flash_dense"].error is None


def test_a_worker_that_raises_is_named(worker: Worker) -> None:
    with pytest.raises(WorkerFailedError, match=r"largest_kernel_error ended with error: .*absent"):
        call(worker, largest_kernel_error, "/absent.so", SPEC, SHAPES[0], [(1, 1, 1)], 0, "cpu")
