"""Windows, padding sides, softcaps, biases and untouched padding in every description and space."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import tvm
from cuda_schedules import first_proposal
from kernel_checks import kernel_error
from machine_code import compile_device
from tvm.s_tir import Schedule

from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.derivation import (
    PipelinedTiles,
    online_attention,
    pipelined_attention,
)
from prefilltune.tuning.spaces import SPACES, llvm_fused
from prefilltune.workloads import (
    TOLERANCE,
    PrefillShape,
    PrefillSpec,
    Tiles,
    make_inputs,
    plain_attention,
    reference_attention,
)
from prefilltune.workloads.elementary import POLYNOMIALS

SHAPES = [PrefillShape(4, 50), PrefillShape(4, 23, 60), PrefillShape(4, 60, 23)]

#: Columns that a row sees to its left and to its right.
LEFT, RIGHT = 11, 5

MASKS: dict[str, dict[str, Any]] = {
    "window": {"window": (LEFT, RIGHT)},
    "window, padded left": {"padding": "left", "window": (LEFT, RIGHT)},
    "causal window": {"padding": "left", "window": (LEFT, 0)},
    "causal, untouched": {"window": (None, 0), "padding_output": "untouched"},
    "padded left": {"padding": "left"},
    "to the right": {"window": (0, None)},
}
SCORES: dict[str, dict[str, Any]] = {
    "softcap": {"softcap": 1.5},
    "bias": {"bias": "relative"},
    "all": {
        "padding": "left",
        "window": (LEFT, 0),
        "softcap": 1.5,
        "bias": "relative",
        "padding_output": "untouched",
    },
}


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

#: What is tuned, with every choice; the others, which more choices are drawn for elsewhere
#: (test_descriptions), and other tiles, with what is hardest to get right.
TUNED = ("scheduled", "pipelined 16x8")
CASES = [
    (name, SHAPES[(row + column) % 3], chosen)
    for row, name in enumerate(DESCRIPTIONS)
    for column, chosen in enumerate((*MASKS, *SCORES) if name in TUNED else ("window", "all"))
]


@pytest.mark.parametrize(("name", "shape", "chosen"), CASES, ids=str)
def test_every_description_computes_it(name: str, shape: PrefillShape, chosen: str) -> None:
    spec = PrefillSpec(2, 1, 16, "float32", **{**MASKS, **SCORES}[chosen])
    longest = max(shape.qo_len, shape.num_kv)
    lens = np.array([longest, longest // 2 + 3, 1, 0])
    target = resolve_target("llvm", 1).target
    kernel = tvm.compile(DESCRIPTIONS[name](spec, shape), target=target)["main"]
    assert kernel_error(kernel, spec, shape, lens, 0) <= TOLERANCE["float32"]


@pytest.mark.parametrize(
    ("space", "chosen"), [("cuda_wgmma", SCORES["all"]), ("cuda_simt", MASKS["causal window"])]
)
def test_it_compiles_for_cuda(space: str, chosen: dict[str, Any]) -> None:
    pytest.importorskip("cuda.bindings.nvrtc", reason="needs the extra [cuda]")
    dtype = "float32" if space == "cuda_simt" else "float16"
    spec = PrefillSpec(2, 1, 64, dtype, **chosen)
    shape, target = PrefillShape(2, 300), resolve_target("cuda", arch="sm_90a")
    variant = dict(SPACES[space].variants(spec, shape, target)[0])
    proposal = first_proposal(space, variant, spec, shape, target)
    source, cubin = compile_device(proposal.module, target.target)
    assert "main_kernel" in source
    assert "0 bytes spill stores" in cubin.log


def test_a_bias_needs_its_tensor() -> None:
    spec = PrefillSpec(2, 1, 16, "float32", bias="relative")
    inputs = make_inputs(spec, SHAPES[0], np.array([1, 2, 3, 4]), 0)
    assert [each.shape for each in inputs.arguments[4:]] == [(2, 99)]
    with pytest.raises(ValueError, match="pass bias"):
        reference_attention(spec, *inputs.arguments[:4])
