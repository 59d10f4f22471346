"""A mask is one entry of ``MASKS``: a window, whose columns begin and end elsewhere in each row."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import tvm
from cuda_schedules import proposals
from extreme_inputs import run_on_cpu
from machine_code import compile_device
from tvm import tirx
from tvm.s_tir import Schedule
from tvm.sym.analyzer import Analyzer

from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.derivation import online_attention
from prefilltune.tuning.spaces import SPACES, llvm_fused
from prefilltune.workloads import (
    MASK_MODES,
    MASKS,
    TOLERANCE,
    Mask,
    PrefillShape,
    PrefillSpec,
    Tiles,
    empty_lse,
    make_inputs,
    max_error,
    plain_attention,
)
from prefilltune.workloads import spec as spec_module
from prefilltune.workloads.elementary import POLYNOMIALS
from prefilltune.workloads.expressions import LengthMask
from prefilltune.workloads.pipelined import PipelinedTiles, pipelined_attention

#: Columns that a row sees to its left and to its right.
LEFT, RIGHT = 11, 5
SHAPES = [PrefillShape(4, 50), PrefillShape(4, 23, 60), PrefillShape(4, 60, 23)]


def _clamp(value: Any, low: Any, high: Any) -> Any:
    return tirx.max(tirx.min(value, high), low)


def _window(row: Any, valid_len: Any, qo_len: Any, kv_len: Any) -> tuple[Any, Any]:
    keys = _clamp(valid_len, 0, kv_len)
    begin = _clamp(row - LEFT, 0, keys)
    return begin, _clamp(row + (RIGHT + 1), 0, keys)


def _causal_window(row: Any, valid_len: Any, qo_len: Any, kv_len: Any) -> tuple[Any, Any]:
    """Padded to the left, aligned at the ends."""
    diagonal, first = row + (kv_len - qo_len), _clamp(kv_len - valid_len, 0, kv_len)
    return tirx.max(_clamp(diagonal - LEFT, 0, kv_len), first), _clamp(diagonal + 1, 0, kv_len)


WINDOWS = {
    "window": Mask(MASKS["padded"].rows, _window),
    "causal_window": Mask(MASKS["causal_padded_left"].rows, _causal_window),
}


def _sees(mask_mode: str, row: int, column: int, n: int, qo_len: int, kv_len: int) -> bool:
    """The same for one pair, in Python."""
    if mask_mode == "window":
        return row < n and column < n and row - LEFT <= column <= row + RIGHT
    diagonal = row + kv_len - qo_len
    valid = row >= qo_len - n and column >= kv_len - n
    return valid and diagonal - LEFT <= column <= diagonal


@pytest.fixture(autouse=True)
def with_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, mask in WINDOWS.items():
        monkeypatch.setitem(MASKS, name, mask)
    monkeypatch.setattr(spec_module, "MASK_MODES", (*MASK_MODES, *WINDOWS))


def _fused(spec: PrefillSpec, shape: PrefillShape) -> Any:
    variant = {"q_tile": 16, "kv_tile": 8, "packed": True}
    sch = Schedule(SPACES["llvm_fused"].describe(spec, shape, variant), seed=3)
    llvm_fused.schedule(sch, packed=True)
    return sch.mod


Describe = Callable[[PrefillSpec, PrefillShape], Any]
DESCRIPTIONS: dict[str, Describe] = {
    "plain": plain_attention,
    "online": partial(online_attention, tiles=Tiles(4, 3)),
    "scheduled": _fused,
    **{
        f"pipelined {q_tile}x{kv_tile}": partial(
            pipelined_attention, tiles=PipelinedTiles(q_tile, kv_tile), elementary=POLYNOMIALS
        )
        for q_tile, kv_tile in ((4, 8), (16, 8), (1, 8), (8, 32))
    },
}


# Every description on one shape, and one of them on every shape.
CASES = [
    *((name, SHAPES[index % 3]) for index, name in enumerate(DESCRIPTIONS)),
    *(("pipelined 16x8", shape) for shape in SHAPES),
]


@pytest.mark.parametrize("mask_mode", WINDOWS)
@pytest.mark.parametrize(("name", "shape"), dict.fromkeys(CASES), ids=str)
def test_every_description_computes_it(name: str, shape: PrefillShape, mask_mode: str) -> None:
    spec = PrefillSpec(2, 1, 16, "float32", mask_mode)
    longest = max(shape.qo_len, shape.num_kv)
    lens = np.array([longest, longest // 2 + 3, 1, 0])
    inputs = make_inputs(PrefillSpec(2, 1, 16, "float32"), shape, lens, 0)
    kernel = tvm.compile(DESCRIPTIONS[name](spec, shape), target=resolve_target("llvm", 1).target)[
        "main"
    ]
    expected = np.zeros(inputs.query.shape)
    expected_lse = np.full(inputs.query.shape[:3], empty_lse("float32"))
    for b, n in enumerate(lens):
        sizes = (min(n, longest), shape.qo_len, shape.num_kv)
        for row in range(shape.qo_len):
            seen = [j for j in range(shape.num_kv) if _sees(mask_mode, row, j, *sizes)]
            if not seen:
                continue
            for head in range(2):
                scores = inputs.key[b, seen, 0].astype(float) @ inputs.query[b, row, head]
                weights = np.exp2(scores * spec.scale * np.log2(np.e))
                expected[b, row, head] = weights @ inputs.value[b, seen, 0] / weights.sum()
                expected_lse[b, row, head] = np.log2(weights.sum())
    output, lse = run_on_cpu(kernel, spec, inputs)
    assert max_error(output, expected) <= TOLERANCE["float32"]
    assert max_error(lse, expected_lse) <= TOLERANCE["float32"]


@pytest.mark.parametrize(
    ("mask_mode", "moves"),
    [
        ("padded", (False, False)),
        ("causal_padded_left", (False, True)),
        ("window", (True, True)),
        ("causal_window", (True, True)),
    ],
)
def test_which_ends_move_from_row_to_row(mask_mode: str, moves: tuple[bool, bool]) -> None:
    assert LengthMask(MASKS[mask_mode], 50, 60).moves == moves


def test_key_tiles_outside_the_window_are_not_visited() -> None:
    mask = LengthMask(WINDOWS["window"], 1000, 1000)
    found = mask.kv_range(tirx.const(512, "int32"), 64, tirx.const(900, "int32"))
    analyzer = Analyzer()
    assert [int(analyzer.simplify(each)) for each in found] == [512 - LEFT, 512 + 64 + RIGHT]


@pytest.mark.parametrize("space", ["cuda_wgmma", "cuda_simt"])
def test_it_compiles_for_cuda(space: str) -> None:
    pytest.importorskip("cuda.bindings.nvrtc", reason="needs the extra [cuda]")
    dtype = "float32" if space == "cuda_simt" else "float16"
    spec, shape = PrefillSpec(2, 1, 64, dtype, "causal_window"), PrefillShape(2, 300)
    target = resolve_target("cuda", arch="sm_90a")
    variant = dict(SPACES[space].variants(spec, shape, target)[0])
    proposal = proposals(space, variant, spec, shape, target)[0]
    source, cubin = compile_device(proposal.module, target.target)
    assert "main_kernel" in source
    assert "0 bytes spill stores" in cubin.log


def test_the_reference_takes_no_mask_for_another() -> None:
    spec = PrefillSpec(2, 1, 16, "float32", "window")
    with pytest.raises(ValueError, match="'window' is not stated in NumPy"):
        make_inputs(spec, SHAPES[0], np.array([1, 2, 3, 4]), 0, poison_padding=True)
