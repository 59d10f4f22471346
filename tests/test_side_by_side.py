"""What checks and times PyTorch's peers, with all but CUDA itself: on a CPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.build import build_library
from prefilltune.tuning.comparing.peers.registry import peers_on_a_gpu
from prefilltune.tuning.comparing.peers.torch_attention import TORCH_PEERS
from prefilltune.tuning.comparing.side_by_side import largest_kernel_error, measure_side_by_side
from prefilltune.tuning.errors import WorkerFailedError
from prefilltune.tuning.measuring.kernels import call
from prefilltune.tuning.measuring.worker import Worker
from prefilltune.workloads import (
    MASK_MODES,
    TOLERANCE,
    PrefillShape,
    PrefillSpec,
    check_batches,
    plain_attention,
)
from prefilltune.workloads.sizes import sizes_at_call

pytestmark = pytest.mark.skipif(not find_spec("torch"), reason="needs the extra [torch]")

STAND_INS = Path(__file__).parent / "stand_ins"

SPEC = PrefillSpec(4, 2, 16, "float32")
ALL = PrefillSpec(4, 2, 16, "float32", padding="left", window=(4, 0), softcap=2, bias="relative")
SHAPES = [PrefillShape(3, 17), PrefillShape(2, 9, 20), PrefillShape(2, 20, 9)]
PADDED, CAUSAL, CAUSAL_LEFT = (
    PrefillSpec(4, 2, 16, "float32", mask_mode)
    for mask_mode in ("padded", "causal_padded", "causal_padded_left")
)
HALF_LEFT = dataclasses.replace(CAUSAL_LEFT, dtype="float16")
WINDOW = PrefillSpec(4, 2, 16, "float32", window=(2, 3))
BIAS = PrefillSpec(4, 2, 16, "float32", window=(2, None), bias="relative")
PACKED = PrefillSpec(4, 2, 16, "float16", layout="packed", window=(None, 0))
PACKED_BIAS = PrefillSpec(4, 2, 16, "float32", layout="packed", window=(3, 1), bias="relative")
GEMM_SIZE = 32


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """Where something stands in for FlashAttention-3, here and in the process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(STAND_INS))
        with Worker({"PYTHONPATH": str(STAND_INS)}) as started:
            yield started


def _built(spec: PrefillSpec, shape: PrefillShape, folder: Path) -> str:
    module = plain_attention(spec, sizes_at_call(spec) if spec.is_packed else shape)
    return build_library(module, resolve_target("llvm", 1).target, str(folder / "kernel.so"))


@pytest.mark.parametrize("spec", [PADDED, CAUSAL, CAUSAL_LEFT, WINDOW, ALL], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_right_kernel_agrees_with_the_reference_on_the_device_in_every_regime(
    spec: PrefillSpec, shape: PrefillShape, worker: Worker, tmp_path: Path
) -> None:
    batches = check_batches(shape.batch, max(shape.qo_len, shape.num_kv), 1)
    path = _built(spec, shape, tmp_path)
    error = call(worker, largest_kernel_error, path, spec, shape, batches, 0, "cpu")
    assert error <= TOLERANCE["float32"]


def test_a_wrong_kernel_has_an_error(worker: Worker, tmp_path: Path) -> None:
    shape = SHAPES[0]
    path = _built(dataclasses.replace(SPEC, sm_scale=0.5), shape, tmp_path)
    error = call(worker, largest_kernel_error, path, SPEC, shape, [(17, 5, 1)], 0, "cpu")
    assert error > 0.01


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (PADDED, SHAPES[0]), (HALF_LEFT, SHAPES[1]),
        (WINDOW, SHAPES[1]), (BIAS, SHAPES[0]), (ALL, SHAPES[1]),
    ],
    ids=str,
)  # fmt: skip
def test_everything_is_timed_or_has_a_reason(
    spec: PrefillSpec, shape: PrefillShape, worker: Worker, tmp_path: Path
) -> None:
    other_scale = dataclasses.replace(spec, sm_scale=0.5)
    (tmp_path / "wrong").mkdir()
    libraries = {
        "tuned": _built(spec, shape, tmp_path),
        "wrong": _built(other_scale, shape, tmp_path / "wrong"),
        "missing": str(tmp_path / "missing.so"),
    }
    batches = [(9, 5, 3)[: shape.batch], (1, 2, 7)[: shape.batch]]
    results = call(
        worker,
        measure_side_by_side,
        libraries,
        spec,
        shape,
        batches,
        0,
        GEMM_SIZE,
        "cpu",
        None,
        1,
        2,
    )
    peers = peers_on_a_gpu(spec, shape, batches)
    assert set(results) == {*libraries, *(peer.name for peer in peers), "gemm"}
    for name, each in results.items():
        assert bool(each.seconds) != bool(each.failure)
        assert bool(each.cold_seconds) == bool(each.seconds and name != "gemm")
    right = ["tuned", "torch_flex", *(["torch_sdpa_mask"] if spec.softcap is None else [])]
    if spec.dtype == "float16":
        right += ["fa3_seqused", "fa3_seqused_filled", "fa3_varlen_packed"]
    for name in right:
        assert results[name].error <= (5e-3 if spec.dtype == "float16" else 1e-5)
        assert min(results[name].seconds) > 0
    assert "wrong on valid rows" in results["wrong"].failure
    assert "missing.so" in results["missing"].failure
    assert results["torch_flash_dense"].error is None
    for peer in peers:
        if lacking := peer.lacks(spec):
            assert results[peer.name].failure == lacking
        elif peer.name.startswith("torch_varlen"):
            assert "CPU" in results[peer.name].failure


@pytest.mark.parametrize(
    ("spec", "shape"), [(PACKED, SHAPES[2]), (PACKED_BIAS, SHAPES[0])], ids=str
)
def test_packed_kernels_are_compared_with_those_that_take_packed_tensors(
    spec: PrefillSpec, shape: PrefillShape, worker: Worker, tmp_path: Path
) -> None:
    padded = dataclasses.replace(spec.padded, padding="left")
    (tmp_path / "padded").mkdir()
    libraries = {
        "tuned": _built(spec, shape, tmp_path),
        "padded": _built(padded, shape, tmp_path / "padded"),
    }
    batches = [(9, 0, 17)[: shape.batch], (1, 2, 7)[: shape.batch]]
    path = libraries["tuned"]
    error = call(worker, largest_kernel_error, path, spec, shape, batches, 0, "cpu")
    assert error <= TOLERANCE[spec.dtype]
    timed = (libraries, spec, shape, batches, 0, GEMM_SIZE, "cpu", padded, 1, 2)
    results = call(worker, measure_side_by_side, *timed)
    others = ["torch_varlen_packed", "fa3_varlen_packed"]
    assert set(results) == {*libraries, *others, "gemm"}
    right = [*libraries, *(["fa3_varlen_packed"] if spec is PACKED else [])]
    for name in right:
        assert results[name].error <= (5e-3 if spec is PACKED else 1e-5)
        assert min(results[name].seconds + results[name].cold_seconds) > 0


def test_peers_say_what_they_have_no_way_to_compute() -> None:
    lacking = {peer.name: peer.lacks(ALL) for peer in TORCH_PEERS}
    assert lacking == {
        "torch_sdpa_mask": "takes no softcap",
        "torch_flex": "",
        "torch_varlen_with_packing": "takes no softcap or bias",
        "torch_varlen_packed": "takes no softcap or bias",
        "torch_cudnn_dense": "takes no window, softcap or bias",
        "torch_flash_dense": "takes no window, softcap or bias",
    }
    for mask_mode in MASK_MODES:
        spec = PrefillSpec(4, 2, 16, mask_mode=mask_mode)
        assert not any(peer.lacks(spec) for peer in TORCH_PEERS)


def test_a_worker_that_raises_is_named(worker: Worker) -> None:
    with pytest.raises(WorkerFailedError, match=r"largest_kernel_error ended with error: .*absent"):
        call(worker, largest_kernel_error, "/absent.so", SPEC, SHAPES[0], [(1, 1, 1)], 0, "cpu")
