"""Kernels for every shape on a real GPU: right on any, whichever of them a call goes to."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tvm
from cuda_schedules import for_every_shape

from prefilltune.tuning.backends.cuda import cuda_device
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.build import build_library
from prefilltune.tuning.measuring.cpu import tvm_environment
from prefilltune.tuning.measuring.cuda import check_kernel
from prefilltune.tuning.measuring.worker import Worker
from prefilltune.tuning.spaces import SPACES
from prefilltune.workloads import TOLERANCE, PrefillShape, PrefillSpec, empty_lse

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(cuda_device() is None, reason="no CUDA device that TVM can see"),
]

SHAPES = tuple(
    PrefillShape(batch, *lengths)
    for batch, *lengths in (
        (1, 1), (3, 64), (3, 199), (3, 200), (3, 301), (1, 1024), (3, 301, 77), (3, 77, 301),
        (1, 256), (3, 256), (3, 255), (3, 257), (3, 255, 256), (3, 256, 255), (3, 78, 301),
    )
)  # fmt: skip

#: That have kernels of their own.
LENGTHS = ((256, 256), (77, 301))


def _lens(shape: PrefillShape) -> list[tuple[int, ...]]:
    full = shape.num_kv
    found = [(full,) * shape.batch, (0, 1, full), (full + 9, -3, full // 2 + 1)]
    return [lens[: shape.batch] for lens in found]


@pytest.fixture(scope="module")
def runner() -> Iterator[Worker]:
    with Worker(tvm_environment(1)) as worker:
        yield worker


@pytest.mark.parametrize("mask_mode", ["padded", "causal_padded_left"])
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("space", ["cuda_wgmma", "cuda_mma", "cuda_simt"])
def test_every_shape_is_computed_right(
    space: str, head_dim: int, mask_mode: str, runner: Worker, tmp_path: Path
) -> None:
    dtype = "float32" if space == "cuda_simt" else "float16"
    spec = PrefillSpec(4, 2, head_dim, dtype, mask_mode)
    target = resolve_target("cuda")
    if not SPACES[space].variants(spec, SHAPES[0], target):
        pytest.skip(f"{target.key} lacks the instructions of {space}")
    kernel = for_every_shape(space, spec, target, lengths=LENGTHS)
    kernel = kernel.with_attr("global_symbol", "main")
    path = build_library(tvm.IRModule({"main": kernel}), target.target, str(tmp_path / "any.so"))
    for shape in SHAPES:
        outcome = runner.call(check_kernel, path, spec, shape, _lens(shape), 0, timeout=120)
        assert outcome.status == "ok", (shape, outcome.detail)
        assert outcome.value <= TOLERANCE[dtype], shape


@pytest.mark.parametrize("space", ["cuda_wgmma", "cuda_mma", "cuda_simt"])
def test_empty_tensors_are_served(space: str) -> None:
    """In this process: nothing is launched for no rows, and nothing is read of no keys."""
    dtype = "float32" if space == "cuda_simt" else "float16"
    spec, target, device = PrefillSpec(4, 2, 64, dtype), resolve_target("cuda"), tvm.cuda(0)
    if not SPACES[space].variants(spec, PrefillShape(2, 256), target):
        pytest.skip(f"{target.key} lacks the instructions of {space}")
    function = for_every_shape(space, spec, target, lengths=LENGTHS)
    kernel = tvm.tirx.build(function, target=target.target)
    for batch, qo_len, kv_len in ((0, 8, 8), (2, 0, 8), (2, 70, 0), (0, 0, 0), (0, 256, 256)):
        rows, keys = (batch, qo_len, 4), (batch, kv_len, 2, 64)
        arrays = [
            np.full(shape, 7, dtype) for shape in ((*rows, 64), keys, keys, (*rows, 64), rows)
        ]
        query, key, value, output, lse = (
            tvm.runtime.tensor(each, device=device) for each in arrays
        )
        lens = tvm.runtime.tensor(np.full(batch, 5, "int32"), device=device)
        kernel.main(query, key, value, lens, output, lse)
        assert not output.numpy().any()
        assert (lse.numpy() == empty_lse(spec.lse_type)).all()


def test_a_foreign_pipeline_builds_the_same() -> None:
    """And a call refuses what would poison the context."""
    spec, device = PrefillSpec(4, 2, 64, "float16"), tvm.cuda(0)
    target = resolve_target("cuda")
    kernel = tvm.tirx.build(for_every_shape("cuda_mma", spec, target), target=target.target)
    shape, rng = (2, 70), np.random.default_rng(0)
    upload = partial(tvm.runtime.tensor, device=device)
    query, key, value = (
        upload(rng.standard_normal((*shape, heads, 64)).astype("float16")) for heads in (4, 2, 2)
    )
    lens = upload(np.array([70, 3], "int32"))
    output, lse = (
        upload(np.zeros((*shape, 4, 64), "float16")),
        upload(np.zeros((*shape, 4), "float16")),
    )
    kernel.main(query, key, value, lens, output, lse)
    assert np.isfinite(output.numpy()).all()
    with pytest.raises((ValueError, TypeError), match="k"):
        kernel.main(query, query, value, lens, output, lse)
    torch = pytest.importorskip("torch", reason="needs the extra [torch]")
    wide = torch.zeros(2 * 70 * 4 * 64 + 1, dtype=torch.float16, device="cuda")[1:]
    with pytest.raises(ValueError, match="multiple of 16 bytes"):
        kernel.main(wide.view(*shape, 4, 64), key, value, lens, output, lse)
    kernel.main(query, key, value, lens, output, lse)
