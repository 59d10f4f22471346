"""Peers besides PyTorch's: what they take, what they leave in padding, whom they stand beside."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from prefilltune.tuning.comparing.comparison import DENSE
from prefilltune.tuning.comparing.peers.flash_attention_3 import FLASH_ATTENTION_3_PEERS
from prefilltune.tuning.comparing.peers.registry import PEERS, named_peers, peers_on_a_gpu
from prefilltune.workloads import PrefillShape, PrefillSpec

STAND_INS = Path(__file__).parent / "stand_ins"
NAMES = ["fa3_seqused", "fa3_varlen_packed", "fa3_dense", "cudnn_padding_mask", "cudnn_dense"]
FILL_KERNEL = "prefilltune.tuning.comparing.peers.fill_kernel"
FILLED = ["torch_sdpa_mask_filled", "torch_varlen_with_packing_filled"]

needs_torch = pytest.mark.skipif(not find_spec("torch"), reason="needs the extra [torch]")


@pytest.fixture
def flash_attention(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Something that calls itself a build of FlashAttention-3, and no other."""
    monkeypatch.setitem(sys.modules, "fa3_fwd_interface", None)
    monkeypatch.syspath_prepend(str(STAND_INS))
    yield
    for name in ("flash_attn_interface", "flash_attn_config"):
        sys.modules.pop(name, None)


def lacks(name: str, spec: PrefillSpec) -> str:
    (peer,) = (each for each in PEERS if each.name == name)
    return peer.lacks(spec)


@pytest.mark.skipif(
    any(map(find_spec, ("cudnn", "fa3_fwd_interface", "flash_attn_interface"))),
    reason="for machines without them",
)
def test_what_is_not_installed_says_how_to_install_it() -> None:
    for name in NAMES:
        said = lacks(name, PrefillSpec(4, 2, 64, "bfloat16"))
        assert said == "not installed: pip install 'prefilltune[rivals]'"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (PrefillSpec(4, 2, 64, "float16", window=(64, 0)), ""),
        (PrefillSpec(4, 2, 192, "bfloat16"), ""),
        (PrefillSpec(4, 2, 64, "float32"), "takes no float32"),
        (PrefillSpec(4, 2, 256, "bfloat16"), "takes no head_dim 256"),
        (PrefillSpec(4, 2, 60, "bfloat16"), "takes no head_dim 60"),
        (PrefillSpec(4, 2, 64, softcap=5, bias="relative"), "takes no softcap or bias"),
    ],
    ids=str,
)
def test_a_build_of_flash_attention_says_what_it_holds(
    spec: PrefillSpec, says: str, flash_attention: None
) -> None:
    assert lacks("fa3_seqused", spec) == says


def test_a_spec_goes_to_the_first_build_that_takes_it(
    flash_attention: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second has softcaps, which the first has not, and no float16."""
    monkeypatch.delitem(sys.modules, "fa3_fwd_interface")
    (tmp_path / "fa3_fwd_interface.py").touch()
    flags = {"FLASHATTENTION_DISABLE_FP16": True, "FLASHATTENTION_DISABLE_LOCAL": True}
    (tmp_path / "fa3_fwd_config.py").write_text(f"CONFIG = {{'build_flags': {flags}}}")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert lacks("fa3_seqused", PrefillSpec(4, 2, 64, "bfloat16", softcap=5)) == ""
    assert lacks("fa3_seqused", PrefillSpec(4, 2, 64, "bfloat16", window=(3, 0))) == ""
    both = PrefillSpec(4, 2, 64, "bfloat16", window=(3, 0), softcap=5)
    assert lacks("fa3_seqused", both) == "takes no softcap"
    sys.modules.pop("fa3_fwd_config", None)


@pytest.mark.skipif(not find_spec("cudnn"), reason="needs the extra [rivals]")
def test_cudnn_says_what_it_takes() -> None:
    assert lacks("cudnn_padding_mask", PrefillSpec(4, 2, 64, window=(64, 64))) == ""
    assert lacks("cudnn_padding_mask", PrefillSpec(4, 2, 64, softcap=5)) == "takes no softcap"


def test_zeros_are_written_behind_where_ours_write_them() -> None:
    """And where there is padding, behind those that are there and leave it as it was."""
    spec, shape = PrefillSpec(4, 2, 64), PrefillShape(2, 16)
    full, mixed = ([(16, 16)], [(16, 16), (3, 16)])
    plain = [peer.name for peer in PEERS]
    assert [peer.name for peer in peers_on_a_gpu(spec, shape, full)] == plain
    added = [peer for peer in peers_on_a_gpu(spec, shape, mixed) if peer.name not in plain]
    assert {peer.name for peer in added} >= {*FILLED}
    assert all(peer.zeros and peer.title.endswith(", padding filled") for peer in added)
    assert {*plain, "fa3_seqused_filled", "cudnn_padding_mask_filled"} <= {*named_peers()}


@needs_torch
@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (PrefillSpec(4, 2, 16, mask_mode="causal_padded_left"), PrefillShape(3, 17)),
        (PrefillSpec(4, 2, 16, "bfloat16", padding="left", window=(2, 3)), PrefillShape(3, 9, 20)),
        (PrefillSpec(4, 2, 16, window=(None, 3), sm_scale=0.5), PrefillShape(3, 20, 9)),
    ],
    ids=str,
)
def test_flash_attention_is_asked_for_what_the_reference_computes(
    spec: PrefillSpec, shape: PrefillShape, flash_attention: None
) -> None:
    """Through a stand-in that takes what upstream takes, and computes what upstream means."""
    from prefilltune.tuning.comparing import torch_problem

    problems = torch_problem.draw_problems(spec, shape, [(20, 5, 3), (1, 17, 7)], 0, "cpu")
    for peer in FLASH_ATTENTION_3_PEERS:
        for problem in map(peer.known, problems):
            ready = peer.prepare(problem)
            output = ready.padded(ready.bind(problem)())
            valid = torch_problem.valid_positions(problem, shape.qo_len)
            expected, _ = torch_problem.reference(problem)
            error = torch_problem.largest_error(output[valid], expected[valid])
            assert (error <= 2e-2) == (peer.kind != DENSE)


def test_tensors_rotate_past_a_cache() -> None:
    pytest.importorskip("torch", reason="needs the extra [torch]")
    from prefilltune.tuning.comparing.rotation import rotated, touched_bytes
    from prefilltune.tuning.comparing.torch_problem import draw_problems

    spec, shape = PrefillSpec(4, 2, 16), PrefillShape(2, 8)
    problems = draw_problems(spec, shape, [(8, 4), (1, 3)], 0, "cpu")
    assert [touched_bytes(each) for each in problems] == [12 * 12 * 16 * 2, 4 * 12 * 16 * 2]
    sets = rotated(problems, 10_000)  # a round of both touches 6144 bytes
    assert [each.valid_lens.tolist() for each in sets] == 5 * [[8, 4], [1, 3]]
    assert len({each.query.data_ptr() for each in sets}) == 10
    assert all(each.key.equal(problems[0].key) for each in sets)
    assert len(rotated(problems, 10**12)) <= 1024


@needs_torch
@pytest.mark.parametrize("pads_left", [False, True], ids=["right", "left"])
def test_a_small_kernel_writes_zeros_into_padding_alone(
    pads_left: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether heads lie inside of rows or outside."""
    pytest.importorskip("triton", reason="comes with PyTorch for GPUs")
    import torch

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.delitem(sys.modules, FILL_KERNEL, raising=False)
    fill_padding = importlib.import_module(FILL_KERNEL).fill_padding
    monkeypatch.delitem(sys.modules, FILL_KERNEL)
    lens, length = [7, 301, 0], 300
    position = torch.arange(length)
    for sizes, order in (((3, length, 2, 24), (0, 1, 2, 3)), ((3, 2, length, 24), (0, 2, 1, 3))):
        output = torch.ones(sizes).permute(order)
        fill_padding(output, torch.tensor(lens, dtype=torch.int32), pads_left)
        for sequence, valid in zip(output, lens, strict=True):
            is_valid = position >= length - valid if pads_left else position < valid
            assert (sequence == is_valid[:, None, None]).all()


def test_a_comparison_without_a_rival_measures_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    cpu_rivals = importlib.import_module("cpu_rivals")
    output = tmp_path / "rivals.json"
    monkeypatch.setattr(sys, "argv", ["cpu_rivals.py", "--output", str(output)])
    monkeypatch.setattr(cpu_rivals, "find_spec", {"torch": 1, "onnx": 1}.get)
    with pytest.raises(SystemExit) as refused:
        cpu_rivals.main()
    said = "onnxruntime: not installed, and there is no comparison without"
    assert str(refused.value).startswith(said)
    assert str(refused.value).endswith("pip install 'prefilltune[torch,rivals]'")
    assert not output.exists()
