"""What is built of a record is the kernel that was timed when it was made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import tvm
from cuda_schedules import first_proposal
from database_fixtures import PROVENANCE

from prefilltune.database import Entry
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.finishing import finished
from prefilltune.tuning.building.replaying import replay, replay_record
from prefilltune.tuning.spaces import SPACES
from prefilltune.workloads import PackedShape, PrefillShape, PrefillSpec, SymbolicShape
from prefilltune.workloads.shapes import is_square, squared
from prefilltune.workloads.sizes import measured_sizes

CAUSAL = PrefillSpec(4, 2, 64, "float16", "causal_padded_left")
PACKED = PrefillSpec(4, 2, 64, "float16", "causal_packed")
SHAPE = PrefillShape(2, 256)
ALIGNED = {
    "q_tile": 64, "kv_tile": 64, "ring": 2, "persistent": 132, "producer": True, "aligned": True,
}  # fmt: skip
FUSED = {"q_tile": 16, "kv_tile": 32, "packed": False, "registers": 32, "lanes": 16}


def searched(space: str, variant: dict[str, Any], spec: PrefillSpec) -> tuple[Entry, Any]:
    """A record, and the module that a search timed for it."""
    named = "cuda" if space.startswith("cuda") else '{"kind": "llvm", "mcpu": "x86-64-v4"}'
    target = resolve_target(named, arch="sm_90a") if named == "cuda" else resolve_target(named)
    sizes = measured_sizes(spec, SHAPE)
    timed = first_proposal(space, variant, spec, sizes, target)
    where = {"space": space, "variant": variant, "spec": str(spec), "shape": str(SHAPE)}
    replayed = replay(SPACES[space], spec, sizes, variant, timed.trace)
    entry = replayed.entry((1e-3,), target.target, replace(PROVENANCE, **where))
    return entry, finished(timed.module)


@pytest.mark.parametrize(
    ("space", "variant", "spec"),
    [
        # Each of its rows sees a key, where keys are as many.
        ("cuda_wgmma", ALIGNED, CAUSAL),
        ("cuda_wgmma", ALIGNED, PACKED),
        # Windows that are wider than there are keys.
        ("cuda_wgmma", {"q_tile": 64, "kv_tile": 64, "ring": 2}, replace(CAUSAL, window=(300, 0))),
        ("llvm_fused", FUSED, PrefillSpec(4, 2, 64, "float32", window=(64, 300))),
    ],
    ids=str,
)
def test_a_record_builds_what_was_timed(
    space: str, variant: dict[str, Any], spec: PrefillSpec
) -> None:
    entry, timed = searched(space, variant, spec)
    found = replay_record(entry, measured_sizes(spec, SHAPE))
    tvm.ir.assert_structural_equal(found, timed, map_free_vars=True)


@pytest.mark.parametrize(
    ("spec", "sizes", "keys"),
    [(CAUSAL, SymbolicShape.fresh(), "kv_len"), (PACKED, PackedShape.fresh(), "total_kv")],
    ids=["padded", "packed"],
)
def test_as_many_keys_as_queries_are_known_without_being_asked(
    spec: PrefillSpec, sizes: Any, keys: str
) -> None:
    assert (is_square(sizes), is_square(squared(sizes))) == (False, True)
    entry, _ = searched("cuda_wgmma", ALIGNED, spec)
    general, square = (
        replay_record(entry, each)["main"].script() for each in (sizes, squared(sizes))
    )
    assert keys in general
    assert keys not in square
    assert len(square) < len(general)
