"""The stock rules for GPUs find schedules that may run, and TVM generates code for some of them."""

from __future__ import annotations

import itertools

import pytest
from machine_code import compile_device
from tvm.s_tir.meta_schedule.cost_model import RandomModel

from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.errors import KernelCompileError
from prefilltune.tuning.search.arms import Arm
from prefilltune.tuning.spaces import SPACES
from prefilltune.workloads import Case, PrefillShape, PrefillSpec, parse_lengths

pytest.importorskip("cuda.bindings.nvrtc", reason="needs the extra [cuda]")


@pytest.mark.slow
@pytest.mark.thorough  # a minute for a space that is there to compare with
def test_some_candidates_compile() -> None:
    target = resolve_target("cuda", arch="sm_80")
    case = Case(PrefillSpec(1, 1, 64, "float16"), PrefillShape(1, 128), parse_lengths("full"))
    arm = Arm(case, target, SPACES["cuda_stock"], {}, RandomModel(), 8, 2)
    compiled = []
    # Drawn at random, and about half of them compile: of eight now and then none.
    for proposal in itertools.chain.from_iterable(arm.propose(8) for _ in range(4)):
        try:
            compiled.append(compile_device(proposal.module, target.target)[0])
        # TVM vectorises what it has no CUDA for, and waits for copies in loops of unknown length.
        except (KernelCompileError, RuntimeError, ValueError):
            continue
        break
    assert compiled
    assert compiled[0].count("__global__") > 2  # declared and defined: several kernels
