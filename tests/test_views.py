"""Kernels for GPUs on views of query, key and value, on the CPU."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from cuda_on_cpu import ORDERS, kernel_on_cpu
from cuda_schedules import first_proposal
from kernel_checks import error_on_arrays
from tvm import s_tir

from prefilltune.tuning.backends.cuda_code import device_source
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.alignment import parameter
from prefilltune.tuning.building.build import generate
from prefilltune.tuning.building.finishing import finished
from prefilltune.tuning.deployment.views import (
    on_views,
    reads_through_maps,
    view_checks,
    with_strides,
)
from prefilltune.workloads import TOLERANCE, PrefillShape, PrefillSpec, make_inputs

SHAPE = PrefillShape(2, 36)
LENS = np.array([29, 36])

#: More than any block of these kernels has.
SHARED_BYTES = 1 << 17


def on_strides(kernel: Any, strides: dict[str, list[int]]) -> Any:
    """A kernel for one shape, on query, key and value of strides."""
    buffers = [
        tvm.tirx.decl_buffer(each.shape, each.dtype, each.name, strides=strides.get(each.name))
        for each in kernel.params
    ]
    body = on_views(kernel.params, [kernel.body], buffers, "cuda")
    root = s_tir.SBlockRealize([], True, s_tir.SBlock([], [], [], "root", body))
    return tvm.IRModule({"main": tvm.tirx.PrimFunc(buffers, root, kernel.ret_type, kernel.attrs)})


def fused(query: np.ndarray, key: np.ndarray, value: np.ndarray) -> list[np.ndarray]:
    """Views of the same: heads before rows, and parts of what one projection made of the others."""
    heads = key.shape[2]
    both = np.concatenate([key, value], axis=2)
    return [query.swapaxes(1, 2).copy().swapaxes(1, 2), both[:, :, :heads], both[:, :, heads:]]


@pytest.mark.parametrize(
    ("space", "dtype", "chosen", "variant"),
    [
        (
            "cuda_simt",
            "float32",
            {"bias": "relative", "window": (20, 9)},
            {"rows": 2, "warps": 4, "kv_tile": 32, "exchange": True},
        ),
        (
            "cuda_mma",
            "float16",
            {"mask_mode": "causal_padded_left"},
            {"q_tile": 64, "kv_tile": 32},
        ),
        pytest.param(
            "cuda_mma_k8", "float16", {"softcap": 2.0}, {"q_tile": 64, "kv_tile": 32},
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_views_are_read_where_they_are(
    space: str, dtype: str, chosen: dict[str, Any], variant: dict[str, Any], tmp_path: Path
) -> None:
    spec = PrefillSpec(4, 2, 32, dtype, **chosen)
    target = resolve_target("cuda", arch="sm_80" if space == "cuda_mma" else "sm_75")
    proposal = first_proposal(space, variant, spec, SHAPE, target)
    kernel = finished(proposal.module)["main"]
    assert not reads_through_maps(kernel)
    dense = make_inputs(spec, SHAPE, LENS, 0).arguments[:3]
    strides = {
        name: [each // view.itemsize for each in view.strides]
        for name, view in zip("qkv", fused(*dense), strict=True)
    }
    source = device_source(generate(on_strides(kernel, strides), target.target))
    warps = variant.get("warps", 4)
    q_tile = variant.get("q_tile", 8 * warps * variant.get("rows", 2))
    grid = (-(-SHAPE.qo_len // q_tile), spec.num_qo_heads, SHAPE.batch)
    compiled = kernel_on_cpu(source, grid, warps, SHARED_BYTES, tmp_path)

    def run(*arrays: np.ndarray) -> None:
        compiled(*fused(*arrays[:3]), *arrays[3:], order=ORDERS[0])

    assert error_on_arrays(run, spec, SHAPE, LENS, 0) <= TOLERANCE[dtype]


def test_what_strides_must_be_multiples_of() -> None:
    """Of what rows of dense tensors begin at, no more."""

    def multiples(dtype: str, head_dim: int, kind: str) -> list[str]:
        view = with_strides(parameter((2, 8, 2, head_dim), dtype, "k", kind))
        messages = [str(each.message_parts[0].value) for each in view_checks([view], kind)]
        return [each[1] for text in messages if (each := re.search(r"multiples of (\d+)", text))]

    assert multiples("float16", 64, "cuda") == ["8"]
    assert multiples("float32", 72, "cuda") == ["4"]
    assert multiples("float16", 46, "cuda") == ["2"]
    assert multiples("float16", 45, "cuda") == multiples("float16", 64, "llvm") == []
