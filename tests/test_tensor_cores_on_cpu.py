"""Kernels on the matrix instructions of a warp, on the CPU: right for any head dim, in bounds."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_on_cpu import ORDERS, kernel_on_cpu
from cuda_schedules import first_proposal
from kernel_checks import error_on_arrays

from prefilltune.tuning.backends.cuda_code import device_source
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.build import generate
from prefilltune.workloads import TOLERANCE, PrefillShape, PrefillSpec, regimes

ALL_CHOICES = {
    "padding": "left",
    "window": (20, 9),
    "softcap": 1.5,
    "bias": "relative",
    "padding_output": "untouched",
}

CAUSAL = {"mask_mode": "causal_padded_left"}

#: The oldest that has the instructions of a space.
ARCHS = {"cuda_mma": "sm_80", "cuda_mma_k8": "sm_75"}

#: A warp computes two blocks of 16 rows, and reads its queries again for every tile of keys.
OF_32_ROWS = {"warp_rows": 32, "reload_query": True}

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


def on_fenced(kernel: Callable[..., None], order: int, *arrays: np.ndarray) -> None:
    """Run a kernel on tensors that end where memory does."""
    *tensors, lse = arrays
    copies = [fenced(each) if each.ndim > 1 else each for each in tensors]
    kernel(*copies, lse, order=order)
    tensors[-1][...] = copies[-1]


def tiles(q_tile: int, kv_tile: int, **more: Any) -> dict[str, Any]:
    """A variant."""
    return {"q_tile": q_tile, "kv_tile": kv_tile, **more}


@pytest.mark.parametrize(
    ("space", "head_dim", "chosen", "shape", "variant"),
    [
        ("cuda_mma_k8", 72, CAUSAL, PrefillShape(4, 36, 68), tiles(64, 32)),
        ("cuda_mma", 64, ALL_CHOICES, PrefillShape(4, 36, 69), tiles(64, 32, **OF_32_ROWS)),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("cuda_mma", 46, {}, PrefillShape(4, 68, 36), tiles(64, 64)),
                ("cuda_mma", 40, {}, PrefillShape(4, 132, 100), tiles(128, 64, **OF_32_ROWS)),
                ("cuda_mma", 46, ALL_CHOICES, PrefillShape(4, 36, 101), tiles(64, 96)),
                ("cuda_mma", 45, CAUSAL, PrefillShape(4, 80, 80), tiles(64, 32)),
                ("cuda_mma", 64, CAUSAL, PrefillShape(4, 68, 132), tiles(64, 64)),
                ("cuda_mma", 80, {}, PrefillShape(4, 132, 100), tiles(128, 64, warp_rows=32)),
                ("cuda_mma_k8", 80, {}, PrefillShape(4, 132, 100), tiles(64, 64, **OF_32_ROWS)),
                ("cuda_mma_k8", 45, CAUSAL, PrefillShape(4, 80, 80), tiles(64, 32)),
            )
        ),
    ],
    ids=str,
)
def test_kernels_compute_attention(
    space: str,
    head_dim: int,
    chosen: dict[str, Any],
    shape: PrefillShape,
    variant: dict[str, Any],
    tmp_path: Path,
) -> None:
    spec = PrefillSpec(2, 1, head_dim, "float16", **chosen)
    target = resolve_target("cuda", arch=ARCHS[space])
    proposal = first_proposal(space, variant, spec, shape, target)
    source = device_source(generate(proposal.module, target.target))
    grid = (-(-shape.qo_len // variant["q_tile"]), spec.num_qo_heads, shape.batch)
    warps = variant["q_tile"] // variant.get("warp_rows", 16)
    kernel = kernel_on_cpu(source, grid, warps, SHARED_BYTES, tmp_path)
    for index, lens in enumerate(regimes(shape.batch, max(shape.qo_len, shape.num_kv))):
        run = partial(on_fenced, kernel, ORDERS[index % len(ORDERS)])
        assert error_on_arrays(run, spec, shape, lens, index) <= TOLERANCE["float16"]
