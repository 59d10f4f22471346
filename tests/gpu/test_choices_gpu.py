"""Every mask, padding side, score, group, head_dim, dtype and space on a real GPU, in pairs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from covering import covering
from cuda_schedules import last_proposal

from prefilltune.tuning.backends.cuda import cuda_device
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.build import build_library
from prefilltune.tuning.measuring.cpu import tvm_environment
from prefilltune.tuning.measuring.cuda import check_kernel
from prefilltune.tuning.measuring.worker import Worker
from prefilltune.tuning.spaces import SPACES
from prefilltune.workloads import TOLERANCE, PrefillShape, PrefillSpec, regimes

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(cuda_device() is None, reason="no CUDA device that TVM can see"),
]

#: Of each space, what a variant holds besides tiles; a dtype goes with each.
_KERNELS = [
    ("cuda_wgmma", {}, "float16"),
    ("cuda_wgmma", {"ring": 2}, "bfloat16"),
    ("cuda_wgmma", {"overlap": True, "ring": 2}, "float16"),
    ("cuda_wgmma", {"ring": 2, "persistent": 132}, "float16"),
    ("cuda_mma", {}, "float16"),
    ("cuda_mma", {}, "bfloat16"),
    ("cuda_simt", {}, "float32"),
]

CASES = covering(
    {
        "kernel": _KERNELS,
        "padding": ["right", "left"],
        "window": [(None, None), (None, 0), (5, 3), (64, 64), (0, None), (130, 0)],
        "softcap": [None, 2.0, 50.0],
        "bias": [None, "relative"],
        "padding_output": ["zero", "untouched"],
        "heads": [(2, 2), (4, 2), (3, 1)],
        "head_dim": [64, 128, 256, 40, 72, 46],
        "shape": [PrefillShape(5, 301), PrefillShape(5, 77, 301), PrefillShape(5, 301, 77)],
    }
)


@pytest.fixture(scope="module")
def runner() -> Iterator[Worker]:
    with Worker(tvm_environment(1)) as worker:
        yield worker


@pytest.mark.parametrize("case", CASES, ids=[str(index) for index in range(len(CASES))])
def test_pairs_of_choices(case: dict[str, Any], runner: Worker, tmp_path: Path) -> None:
    space, pipeline, dtype = case["kernel"]
    names = ("padding", "window", "softcap", "bias", "padding_output")
    choices = {name: case[name] for name in names}
    spec, shape = PrefillSpec(*case["heads"], case["head_dim"], dtype, **choices), case["shape"]
    target = resolve_target("cuda")
    variants = [dict(each) for each in SPACES[space].variants(spec, shape, target)]
    fitting = [each for each in variants if pipeline.items() <= each.items()] or variants
    if not fitting:
        pytest.skip(f"{space} has no variant for {spec} on {target.key}")
    proposal = last_proposal(space, fitting[0], spec, shape, target)
    path = build_library(proposal.module, target.target, str(tmp_path / "kernel.so"))
    lens = [tuple(map(int, each)) for each in regimes(shape.batch, max(shape.qo_len, shape.num_kv))]
    outcome = runner.call(check_kernel, path, spec, shape, lens, 0, timeout=120)
    assert outcome.status == "ok", (spec, fitting[0], outcome.detail)
    assert outcome.value <= TOLERANCE[dtype], (spec, fitting[0], proposal.trace[1])
