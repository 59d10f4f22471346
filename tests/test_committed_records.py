"""Every record in the tree still replays and compiles, for its own target, on any machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from cuda_schedules import proposals

from prefilltune.database import (
    Entry,
    Finder,
    RecordStore,
    TargetKey,
    Tier,
    committed_root,
    judge,
)
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.rebuilding import rebuild_records
from prefilltune.tuning.deployment import choose_serving
from prefilltune.tuning.pipeline import AHEAD
from prefilltune.workloads import PrefillShape, PrefillSpec
from prefilltune.workloads.presets import load_presets

TARGETS = sorted(path.name for path in committed_root().iterdir() if path.is_dir())
H100 = TargetKey.parse("cuda-sm_90a-h100")


def _one_of_each(entries: Sequence[Entry], *, with_heads: bool) -> list[Entry]:
    """The first record of each space, structure and dtype; or of each mask, score and heads."""
    found = {}
    for entry in entries:
        of = entry.provenance
        spec = PrefillSpec.parse(of.spec)
        kind = replace(spec, dtype="float16", lse_dtype=None) if with_heads else spec.dtype
        found.setdefault((of.space, kind, tuple(sorted(of.variant))), entry)
    return [*found.values()]


@pytest.mark.parametrize("name", TARGETS)
def test_committed_records_rebuild(name: str, pytestconfig: pytest.Config) -> None:
    """One of each structure and attention with ``--slow``, else of each structure and dtype."""
    key = TargetKey.parse(name)
    if key.kind == "cuda":
        pytest.importorskip("cuda.bindings.nvrtc", reason="needs the extra [cuda]")
    store = RecordStore.open(committed_root(), key)
    assert store.entries
    assert not store.problems
    entries = _one_of_each(store.entries, with_heads=pytestconfig.getoption("--slow"))
    rebuilt = rebuild_records([(key, entry) for entry in entries])
    assert [each.failure for each in rebuilt] == [""] * len(entries)


@pytest.mark.parametrize("name", TARGETS)
def test_committed_records_may_be_merged_elsewhere(name: str) -> None:
    """In a process that described nothing, one record of each variant."""
    store = RecordStore.open(committed_root(), TargetKey.parse(name))
    some = {str(each.provenance.variant): each for each in store.entries}
    assert judge(some.values()) == {}


@pytest.mark.parametrize(
    ("cpu", "level"),
    [
        ({"mcpu": "skylake-avx512"}, "llvm-x86_64_v4"),
        ({"mcpu": "znver3"}, "llvm-x86_64_v3"),
        ({"mcpu": "nehalem"}, "llvm-x86_64_v2"),
        ({"mcpu": "neoverse-n1", "mtriple": "aarch64-linux-gnu"}, "llvm-aarch64"),
    ],
)
def test_cpus_that_nobody_tuned_for_have_a_kernel_of_every_preset(
    cpu: dict[str, str], level: str
) -> None:
    target = resolve_target({"kind": "llvm", **cpu})
    finder = Finder([committed_root()])
    for preset in load_presets().values():
        for spec in preset.specs("float32"):
            serving = choose_serving(spec, target, finder, on_missing="nearest")
            (match,) = serving.matches.values()
            assert (match.tier, str(match.key)) == (Tier.PORTABLE, level)
            (note,) = serving.notes
            timed = "timed nowhere" if level == "llvm-aarch64" else "timed on Intel"
            assert timed in note
            assert "run: " in note


def test_a_record_with_another_variant_is_refused() -> None:
    record = RecordStore.open(committed_root(), H100).entries[0]
    for variant in ({}, {"q_tile": "wide", "kv_tile": 64}):
        forged = replace(record, provenance=replace(record.provenance, variant=variant))
        assert "no such variant" in judge([forged])[record.record_id]


@pytest.mark.parametrize("overlap", [False, True])
def test_a_search_proposes_the_trace_of_a_record(overlap: bool) -> None:
    """Instruction by instruction: in another order, it would measure all of its points again."""
    record = next(
        each
        for each in RecordStore.open(committed_root(), H100).entries
        if each.provenance.variant.get("overlap", False) == overlap
        and AHEAD in str(each.trace)  # which records of earlier spaces lack
    )
    of = record.provenance
    spec, shape = PrefillSpec.parse(of.spec), PrefillShape.parse(of.shape)
    target = resolve_target("cuda", arch="sm_90a")
    found = proposals(of.space, dict(of.variant), spec, shape, target)
    assert record.trace in [each.trace for each in found]
