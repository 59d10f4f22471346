"""Kernels on the matrix instructions of a warp, on the CPU: right for any head dim, in bounds."""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_on_cpu import ORDERS, kernel_on_cpu
from cuda_schedules import first_proposal
from kernel_checks import written_error

from prefilltune.tuning.backends.cuda_code import device_source
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.build import generate
from prefilltune.workloads import (
    TOLERANCE,
    PrefillShape,
    PrefillSpec,
    make_inputs,
    reference_attention,
    regimes,
)

ALL_CHOICES = {
    "padding": "left",
    "window": (20, 9),
    "softcap": 1.5,
    "bias": "relative",
    "padding_output": "untouched",
}

#: More than any block of these kernels has.
SHARED_BYTES = 1 << 17


def fenced(array: np.ndarray) -> np.ndarray:
    """A copy that ends where memory does: a read or a write beyond it ends the process."""
    page = mmap.PAGESIZE
    pages = -(-array.nbytes // page)
    memory = mmap.mmap(-1, (pages + 1) * page)
    begin = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    nothing = ctypes.CDLL(None).mprotect(ctypes.c_void_p(begin + pages * page), page, 0)
    assert nothing == 0
    copy = np.frombuffer(memory, array.dtype, array.size, pages * page - array.nbytes)
    assert copy.ctypes.data % 16 == 0, "kernels ask for it: choose other sizes"
    copy = copy.reshape(array.shape)
    copy[...] = array
    return copy


@pytest.mark.parametrize(
    ("head_dim", "chosen", "shape", "q_tile", "kv_tile"),
    [
        (72, {"mask_mode": "causal_padded_left"}, PrefillShape(4, 36, 68), 64, 32),
        (64, ALL_CHOICES, PrefillShape(4, 36, 69), 64, 32),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (46, {}, PrefillShape(4, 68, 36), 64, 64),
                (40, {}, PrefillShape(4, 132, 100), 128, 64),
                (46, ALL_CHOICES, PrefillShape(4, 36, 101), 64, 96),
                (45, {"mask_mode": "causal_padded_left"}, PrefillShape(4, 80, 80), 64, 32),
                (64, {"mask_mode": "causal_padded_left"}, PrefillShape(4, 68, 132), 64, 64),
                (80, {}, PrefillShape(4, 132, 100), 128, 64),
            )
        ),
    ],
    ids=str,
)
def test_kernels_compute_attention(
    head_dim: int,
    chosen: dict[str, Any],
    shape: PrefillShape,
    q_tile: int,
    kv_tile: int,
    tmp_path: Path,
) -> None:
    spec, target = (
        PrefillSpec(2, 1, head_dim, "float16", **chosen),
        resolve_target("cuda", arch="sm_80"),
    )
    variant = {"q_tile": q_tile, "kv_tile": kv_tile}
    proposal = first_proposal("cuda_mma", variant, spec, shape, target)
    source = device_source(generate(proposal.module, target.target))
    grid = (-(-shape.qo_len // q_tile), spec.num_qo_heads, shape.batch)
    kernel = kernel_on_cpu(source, grid, q_tile // 16, SHARED_BYTES, tmp_path)
    for index, lens in enumerate(regimes(shape.batch, max(shape.qo_len, shape.num_kv))):
        inputs = make_inputs(spec, shape, lens, index, poison_padding=True)
        tensors = [fenced(each) if each.ndim > 1 else each for each in inputs.arguments]
        output = fenced(np.full(inputs.query.shape, np.nan, "float16"))
        lse = np.full(inputs.query.shape[:3], np.nan, "float16")
        kernel(*tensors, output, lse, order=ORDERS[index % len(ORDERS)])
        expected = reference_attention(spec, *inputs.arguments)
        for actual, each in zip((output, lse), expected, strict=True):
            assert written_error(spec, lens, actual, each) <= TOLERANCE["float16"]
