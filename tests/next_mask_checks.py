"""Run by test_next_mask with packages in which workloads/ alone was edited."""

from __future__ import annotations

import sys
from functools import partial

import numpy as np
import tvm
from kernel_checks import kernel_error

from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.derivation import PipelinedTiles, online_attention, pipelined_attention
from prefilltune.tuning.spaces import SPACES
from prefilltune.workloads import (
    TOLERANCE,
    PrefillShape,
    PrefillSpec,
    Tiles,
    plain_attention,
    useful_flops,
)
from prefilltune.workloads.elementary import POLYNOMIALS

CHOSEN = {
    "prefix": {"padding": "left", "window": (None, 0), "prefix": 5},
    "softsign": {"softsign": 0.7},
}
SHAPE, LENS = PrefillShape(4, 21), np.array([21, 13, 1, 0])
DESCRIPTIONS = {
    "plain": plain_attention,
    "online": partial(online_attention, tiles=Tiles(4, 3)),
    "pipelined": partial(pipelined_attention, tiles=PipelinedTiles(4, 8), elementary=POLYNOMIALS),
}


def check(name: str) -> None:
    spec = PrefillSpec(2, 1, 16, "float32", **CHOSEN[name])
    assert PrefillSpec.parse(str(spec)) == spec
    assert name in str(spec)
    for form, describe in DESCRIPTIONS.items():
        kernel = tvm.compile(describe(spec, SHAPE), target=resolve_target("llvm", 1).target)
        error = kernel_error(kernel["main"], spec, SHAPE, LENS, 0)
        assert error <= TOLERANCE["float32"], (form, error)
    if name == "prefix":  # of sequences of 13: 8 rows see 5 columns more, one less from row to row
        causal = PrefillSpec(2, 1, 16, "float32", "causal_padded_left")
        more = useful_flops(spec, SHAPE, LENS) - useful_flops(causal, SHAPE, LENS)
        assert more == 2 * (4 + 3 + 2 + 1) * 4 * 16 * 2


def check_cuda(name: str) -> None:
    from cuda_schedules import first_proposal
    from machine_code import compile_device

    spec = PrefillSpec(2, 1, 64, "float16", **CHOSEN[name])
    target = resolve_target("cuda", arch="sm_90a")
    variant = dict(SPACES["cuda_wgmma"].variants(spec, SHAPE, target)[0])
    proposal = first_proposal("cuda_wgmma", variant, spec, SHAPE, target)
    source, _ = compile_device(proposal.module, target.target)
    assert "wgmma" in source


if __name__ == "__main__":
    for each in CHOSEN:
        {"cpu": check, "cuda": check_cuda}[sys.argv[1]](each)
