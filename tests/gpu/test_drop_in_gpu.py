"""The cases of TVM's own test of its masked prefill kernel, with the drop-in in its place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tvm
from cuda_schedules import first_proposal
from database_fixtures import PROVENANCE
from kernel_checks import kernel_error
from tvm_cases import CASES, database_of_cases

from prefilltune.database import Entry
from prefilltune.tuning.backends.cuda import cuda_device
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.replaying import replay
from prefilltune.tuning.deployment import sequence_prefill_with_mask
from prefilltune.tuning.spaces import SPACES
from prefilltune.workloads import TOLERANCE, PrefillShape, PrefillSpec

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(cuda_device() is None, reason="no CUDA device that TVM can see"),
]


def _record(spec: PrefillSpec, shape: PrefillShape, q_tile: int) -> Entry:
    """A record of the first candidate with such a query tile."""
    target = resolve_target("cuda")
    space = "cuda_wgmma" if target.key.arch == "sm_90a" else "cuda_mma"
    variants = map(dict, SPACES[space].variants(spec, shape, target))
    variant = next(each for each in variants if each["q_tile"] == q_tile)
    proposal = first_proposal(space, variant, spec, shape, target)
    replayed = replay(SPACES[space], spec, shape, variant, proposal.trace)
    provenance = replace(PROVENANCE, spec=str(spec), shape=str(shape), space=space, variant=variant)
    return replayed.entry([2e-3], target.target, provenance)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory):
    """A database of records that nobody timed."""
    return database_of_cases(
        tmp_path_factory.mktemp("database"),
        resolve_target("cuda").key,
        lambda spec: _record(spec, PrefillShape(2, 16), 64),
        lambda spec: _record(spec, PrefillShape(4, 128), 128),
    )


@CASES
def test_cases_of_tvm(
    tuned,
    h_kv: int,
    batch: int,
    qo_len: int,
    kv_len: int,
    valid_lens: list[int],
    mask_modes: tuple[str, ...],
) -> None:
    target = resolve_target("cuda").target
    for mask_mode in mask_modes:
        function = sequence_prefill_with_mask(
            h_kv=h_kv, h_q=4, d=64, dtype="float16", target=target, sm_scale=0.125,
            mask_mode=mask_mode, database=tuned,
        )  # fmt: skip
        kernel = tvm.tirx.build(function, target=target).main
        spec = PrefillSpec(4, h_kv, 64, "float16", mask_mode)
        shape = PrefillShape(batch, qo_len, kv_len)
        error = kernel_error(kernel, spec, shape, np.array(valid_lens), 0, tvm.cuda(0))
        assert error <= TOLERANCE["float16"], mask_mode
