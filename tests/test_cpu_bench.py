"""What a CPU could reach (the fastest matrix product of a run), and PyTorch's peers on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from small_libraries import SHAPE as RECORDED
from small_libraries import small_record

from prefilltune.database import Match, Tier
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.comparing.bench import Libraries
from prefilltune.tuning.comparing.cpu_bench import with_one_product
from prefilltune.tuning.comparing.cpu_peers import ENVIRONMENT, check_peer, time_peer
from prefilltune.tuning.comparing.peers import onnx_runtime
from prefilltune.tuning.comparing.peers.onnx_runtime import ONNX_RUNTIME_PEERS
from prefilltune.tuning.comparing.peers.registry import peers_on_a_cpu
from prefilltune.tuning.measuring.cpu import check_kernel, time_torch_gemm, tvm_environment
from prefilltune.tuning.measuring.kernels import call
from prefilltune.tuning.measuring.timing import Result
from prefilltune.tuning.measuring.worker import Worker
from prefilltune.workloads import Case, PrefillShape, PrefillSpec, parse_lengths

SHAPE, BATCHES = PrefillShape(3, 17), ((17, 9, 3), (1, 2, 7))
PADDED = PrefillSpec(4, 2, 16, "float32")
HEADS = PrefillSpec(4, 4, 16, "float32")
LEFT = PrefillSpec(4, 2, 16, "float32", padding="left", window=(4, 0), softcap=2)
BIAS = PrefillSpec(4, 2, 16, "float32", padding="left", window=(4, 0), bias="relative")
PACKED = PrefillSpec(4, 2, 16, "float32", layout="packed", window=(4, 2))
SOFTCAP = PrefillSpec(
    4, 2, 16, "float32", padding="left", window=(4, 0), bias="relative", softcap=2
)
TUNED = Result((1e-3, 1e-3))
SLOW, FAST = Result((4e-3, 5e-3, 3e-3)), Result((2e-3, 2e-3, 9e-3))


@pytest.mark.parametrize("fastest", ["numpy_gemm", "numpy_avx512_gemm", "torch_gemm"])
def test_the_fastest_product_is_the_limit(fastest: str) -> None:
    products = dict.fromkeys(("numpy_gemm", "numpy_avx512_gemm", "torch_gemm"), SLOW)
    results = {"tuned": TUNED, **products, fastest: FAST}
    assert with_one_product(results) == {"tuned": TUNED, "gemm": FAST}


def test_without_pytorch_numpys_is() -> None:
    assert with_one_product({"numpy_gemm": SLOW, "tuned": TUNED}) == {"tuned": TUNED, "gemm": SLOW}


def test_pytorchs_product_is_timed() -> None:
    pytest.importorskip("torch", reason="needs the extra [torch]")
    assert time_torch_gemm(16, 1, 0.0) > 0


def test_flex_attention_takes_part_where_a_mask_is_not_all() -> None:
    """And zeros are written behind what leaves padding as it was."""

    def of_pytorch(spec: PrefillSpec, batches: Sequence[tuple[int, ...]] = BATCHES) -> list[str]:
        peers = peers_on_a_cpu(spec, SHAPE, batches)
        return [each.name for each in peers if each.library == "torch" and not each.lacks(spec)]

    sdpa = ["torch_sdpa_mask", "torch_sdpa_mask_filled"]
    assert of_pytorch(PADDED) == sdpa
    assert of_pytorch(PADDED, [(17,) * 3]) == sdpa[:1]
    assert of_pytorch(BIAS) == [*sdpa, "torch_flex"]
    assert of_pytorch(SOFTCAP) == ["torch_flex"]


@pytest.mark.parametrize(
    ("spec", "multi_head", "grouped"),
    [
        (HEADS, "", "takes only what is causal"),
        (PADDED, "takes no grouped heads", "takes only what is causal"),
        (LEFT, "takes no grouped heads", ""),
        (replace(HEADS, window=(4, 0)), "takes no window", ""),
        (replace(HEADS, window=(None, 0), dtype="float16"), *["takes no float16"] * 2),
    ],
    ids=str,
)
def test_onnx_runtime_says_what_it_takes(
    spec: PrefillSpec, multi_head: str, grouped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, says in (("onnx_multi_head", multi_head), ("onnx_grouped_query", grouped)):
        (peer,) = (each for each in ONNX_RUNTIME_PEERS if each.name == name)
        monkeypatch.setattr(onnx_runtime, "_PACKAGES", ())
        assert peer.lacks(spec) == says
        monkeypatch.setattr(onnx_runtime, "_PACKAGES", ("absent",))
        assert peer.lacks(spec) == "not installed: pip install 'prefilltune[rivals]'"


@pytest.mark.parametrize(
    ("peer", "spec"),
    [
        ("onnx_multi_head", replace(HEADS, bias="relative")),
        ("onnx_multi_head_filled", replace(HEADS, padding="left", window=(None, 0))),
        ("onnx_grouped_query", LEFT),
        ("onnx_grouped_query_filled", replace(PADDED, window=(None, 0))),
    ],
)
def test_onnx_runtimes_peers_are_right_and_timed(peer: str, spec: PrefillSpec) -> None:
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason="needs the extra [rivals]")
    found = check_peer(peer, spec, SHAPE, BATCHES[0], 0, 1)
    assert not found.failure
    assert found.error is not None
    assert found.error <= 1e-5
    assert time_peer(peer, spec, SHAPE, BATCHES, 0, 1, 0.0) > 0


@pytest.mark.parametrize(
    ("peer", "spec"),
    [
        ("torch_sdpa_mask", PADDED),
        ("torch_sdpa_mask_filled", BIAS),
        ("torch_sdpa_sequences", PACKED),
        ("torch_sdpa_padded_within", PACKED),
        pytest.param("torch_flex", SOFTCAP, marks=pytest.mark.slow),
    ],
)
def test_pytorchs_peers_are_right_and_timed(peer: str, spec: PrefillSpec) -> None:
    pytest.importorskip("torch", reason="needs the extra [torch]")
    with Worker(ENVIRONMENT, uses_tvm=False, frozen_when_idle=True) as worker:
        found = call(worker, check_peer, peer, spec, SHAPE, BATCHES[0], 0, 1)
        assert not found.failure
        assert found.error <= 1e-5
        assert call(worker, time_peer, peer, spec, SHAPE, BATCHES, 0, 1, 0.0) > 0


@pytest.mark.slow
def test_a_peer_that_raises_is_a_row_that_says_why(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the extra [torch]")
    without_compiler = {"CXX": "/absent", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    with Worker({**ENVIRONMENT, **without_compiler}, uses_tvm=False) as worker:
        found = call(worker, check_peer, "torch_flex", SOFTCAP, SHAPE, BATCHES[0], 0, 1)
    assert "compiler" in found.failure
    assert found.error is None


def test_a_record_is_built_for_each_spec_that_it_serves() -> None:
    target = resolve_target("llvm", 2)
    match = Match(
        small_record(PADDED, target, "llvm_fused"), Tier.EXACT, 0.0, target.key, Path("records")
    )
    with Worker(tvm_environment(2)) as worker:
        libraries = Libraries(worker, target)
        for padding_output in ("zero", "untouched"):
            spec = replace(PADDED, padding_output=padding_output)
            path = libraries.of_record(match, Case(spec, RECORDED, parse_lengths("full")))
            assert call(worker, check_kernel, path, spec, RECORDED, [(24, 5)], 0) <= 1e-5
        libraries.close()
