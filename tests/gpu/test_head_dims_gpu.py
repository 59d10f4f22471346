"""Head dims that tensor cores do not multiply as they are, on a real GPU: right, and in bounds."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_schedules import WGMMA_PIPELINES, pipelined, proposals

from prefilltune.tuning.backends.cuda import cuda_device
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.build import build_library
from prefilltune.tuning.measuring.cpu import tvm_environment
from prefilltune.tuning.measuring.worker import Worker
from prefilltune.tuning.spaces import SPACES
from prefilltune.workloads import (
    TOLERANCE,
    Inputs,
    PrefillShape,
    PrefillSpec,
    make_inputs,
    max_error,
    numpy_dtype,
    reference_attention,
    regimes,
)

pytest.importorskip("torch", reason="tensors within others are PyTorch's")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(cuda_device() is None, reason="no CUDA device that TVM can see"),
]

# The worker imports a function of this file.
_ENVIRONMENT = {**tvm_environment(1), "PYTHONPATH": os.pathsep.join(sys.path)}

SHAPES = (PrefillShape(5, 301), PrefillShape(5, 77, 301), PrefillShape(5, 301, 77))

#: Rows of 16 bytes at a time, of 4, and of 2.
HEAD_DIMS = (72, 40, 46, 45)

_MODES = tuple(itertools.product(("padded", "causal_padded_left"), ("float16", "bfloat16")))

#: Bytes beside a tensor, all of whose bits are set: NaN in every dtype.
_FENCE = 512


def run_fenced(
    path: str, spec: PrefillSpec, inputs: Inputs
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Output, LSE, and which tensors were written beside; every tensor stands between NaNs."""
    import ml_dtypes  # noqa: F401  (registers bfloat16 with NumPy)
    import torch
    from tvm.runtime import load_module
    from tvm_ffi import from_dlpack

    rows = inputs.query.shape[:3]
    arrays = {
        "query": inputs.query,
        "key": inputs.key,
        "value": inputs.value,
        "valid_lens": inputs.valid_lens,
        "output": np.full(inputs.query.shape, np.nan, inputs.query.dtype),
        "lse": np.full(rows, np.nan, numpy_dtype(spec.lse_type)),
    }
    memory, tensors = {}, []
    for name, array in arrays.items():
        fence = np.full(_FENCE, 0xFF, "uint8")
        whole = np.concatenate(
            [fence, np.ascontiguousarray(array).reshape(-1).view("uint8"), fence]
        )
        memory[name] = torch.from_numpy(whole).cuda()
        dtype = getattr(torch, array.dtype.name)
        tensors.append(memory[name][_FENCE:-_FENCE].view(dtype).view(array.shape))
    load_module(path)["main"](*map(from_dlpack, tensors))
    torch.cuda.synchronize()
    after = {name: each.cpu().numpy() for name, each in memory.items()}
    touched = [
        name
        for name, each in after.items()
        if not (each[:_FENCE] == 0xFF).all() or not (each[-_FENCE:] == 0xFF).all()
    ]
    output, lse = (
        after[name][_FENCE:-_FENCE].view(arrays[name].dtype).reshape(arrays[name].shape)
        for name in ("output", "lse")
    )
    return output, lse, touched


@pytest.fixture(scope="module")
def runner() -> Iterator[Worker]:
    with Worker(_ENVIRONMENT) as worker:
        yield worker


def _check(
    space: str, pipeline: dict[str, Any], spec: PrefillSpec, index: int, runner: Worker, path: Path
) -> None:
    shape, target = SHAPES[index % len(SHAPES)], resolve_target("cuda")
    variants = SPACES[space].variants(spec, shape, target)
    if not variants:
        pytest.skip(f"{target.key} lacks the instructions of {space}")
    variant = pipelined(variants, pipeline)
    assert variant is not None
    # As unlike as they come, in turns: loads one tile ahead, and as many as there may be.
    proposal = proposals(space, variant, spec, shape, target)[-(index % 2)]
    built = build_library(proposal.module, target.target, str(path / "kernel.so"))
    for seed, lens in enumerate(regimes(shape.batch, max(shape.qo_len, shape.num_kv))):
        inputs = make_inputs(spec, shape, lens, seed, poison_padding=True)
        outcome = runner.call(run_fenced, built, spec, inputs, timeout=120)
        assert outcome.status == "ok", outcome.detail
        output, lse, touched = outcome.value
        assert not touched, (variant, touched)
        expected = reference_attention(spec, *inputs.arguments)
        error = max(max_error(output, expected[0]), max_error(lse, expected[1]))
        assert error <= TOLERANCE[spec.dtype], (variant, lens, proposal.trace[1])


@pytest.mark.parametrize(("mask_mode", "dtype"), _MODES)
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("space", ["cuda_mma", "cuda_wgmma"])
def test_threads_copy_what_there_is(
    space: str, head_dim: int, mask_mode: str, dtype: str, runner: Worker, tmp_path: Path
) -> None:
    index = HEAD_DIMS.index(head_dim) + _MODES.index((mask_mode, dtype))
    spec = PrefillSpec(4, 2, head_dim, dtype, mask_mode)
    _check(space, {}, spec, index, runner, tmp_path)


@pytest.mark.parametrize(("mask_mode", "dtype"), _MODES[1:3])
@pytest.mark.parametrize("head_dim", [72, 40])
@pytest.mark.parametrize("pipeline", WGMMA_PIPELINES[1:], ids=str)
def test_the_copy_engine_fills_with_zeros(
    pipeline: dict[str, Any],
    head_dim: int,
    mask_mode: str,
    dtype: str,
    runner: Worker,
    tmp_path: Path,
) -> None:
    spec = PrefillSpec(4, 2, head_dim, dtype, mask_mode)
    index = (
        WGMMA_PIPELINES.index(pipeline)
        + HEAD_DIMS.index(head_dim)
        + _MODES.index((mask_mode, dtype))
    )
    _check("cuda_wgmma", pipeline, spec, index, runner, tmp_path)


@pytest.mark.parametrize(
    ("head_dim", "dtype", "mask_mode"),
    [
        (72, "float32", "causal_padded_left"),
        (46, "float32", "padded"),
        (45, "float16", "causal_padded_left"),
        (40, "bfloat16", "padded"),
    ],
)
def test_without_tensor_cores(
    head_dim: int, dtype: str, mask_mode: str, runner: Worker, tmp_path: Path
) -> None:
    spec = PrefillSpec(4, 2, head_dim, dtype, mask_mode)
    _check("cuda_simt", {"exchange": True}, spec, 0, runner, tmp_path)
