"""Every record in the tree still replays and compiles, for its own target, on any machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
import tvm
from cuda_schedules import proposals
from kernel_checks import kernel_error
from machine_code import compile_device

from prefilltune.database import (
    Entry,
    Finder,
    RecordStore,
    TargetKey,
    Tier,
    committed_root,
    judge,
    without_end,
)
from prefilltune.database.folders import target_keys
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.finding import find_record
from prefilltune.tuning.building.rebuilding import rebuild_records
from prefilltune.tuning.building.replaying import replay_record
from prefilltune.tuning.deployment import choose_serving
from prefilltune.tuning.pipeline import AHEAD
from prefilltune.workloads import DTYPES, TOLERANCE, PrefillShape, PrefillSpec
from prefilltune.workloads.presets import load_presets

TARGETS = target_keys(committed_root())
KINDS = sorted({key.kind for key in TARGETS})
SHORT = PrefillShape(1, 128)
H100 = TargetKey.parse("cuda-sm_90a-h100")


def _one_of_each(
    records: Iterable[tuple[TargetKey, Entry]], *, with_heads: bool
) -> list[tuple[TargetKey, Entry]]:
    """The first record of each target, space and structure; or of each of these and a spec."""
    found = {}
    for key, entry in records:
        of = entry.provenance
        which = of.spec if with_heads else key
        found.setdefault((of.space, which, tuple(sorted(of.variant))), (key, entry))
    return [*found.values()]


def _stores(kind: str) -> list[RecordStore]:
    """The folders of a kind of target."""
    return [RecordStore.open(committed_root(), key) for key in TARGETS if key.kind == kind]


@pytest.mark.parametrize("kind", KINDS)
def test_committed_records_rebuild(kind: str, pytestconfig: pytest.Config) -> None:
    """One of each target and structure; with ``--thorough``, of each attention and dtype too."""
    if kind == "cuda":
        pytest.importorskip("cuda.bindings.nvrtc", reason="needs the extra [cuda]")
    records = []
    for store in _stores(kind):
        assert store.entries
        assert not store.problems
        records += [(store.key, entry) for entry in store.entries]
    chosen = _one_of_each(records, with_heads=False)
    if pytestconfig.getoption("--thorough"):
        chosen += _one_of_each(records, with_heads=True)
    some = list({(key, entry.record_id): (key, entry) for key, entry in chosen}.values())
    assert [each.failure for each in rebuild_records(some)] == [""] * len(some)


@pytest.mark.parametrize("kind", ["llvm", pytest.param("cuda", marks=pytest.mark.thorough)])
def test_committed_records_may_be_merged_elsewhere(kind: str) -> None:
    """In a process that described nothing, one record of each variant."""
    some = {str(each.provenance.variant): each for store in _stores(kind) for each in store.entries}
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
    presets = load_presets().values()
    for spec in (each for dtype in DTYPES for preset in presets for each in preset.specs(dtype)):
        serving = choose_serving(spec, target, finder, on_missing="nearest")
        (match,) = serving.matches.values()
        assert (match.tier, str(match.key)) == (Tier.PORTABLE, level)
        (note,) = serving.notes
        # Also where another CPU has a record of the shape, for vectors of another length.
        match = find_record(finder, target, spec, SHORT, accept=Tier.OTHER_TARGET)
        assert (match.tier, str(match.key)) == (Tier.PORTABLE, level)
        tuned = PrefillSpec.parse(match.entry.provenance.spec).dtype
        where = f"{level} in {tuned}" if tuned != spec.dtype else level
        assert f"records of {where}, timed " in note
        device = match.entry.provenance.device
        timed = "timed nowhere" if level == "llvm-aarch64" else f"timed on {device['name']}"
        assert timed in note
        assert "run: " in note


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_float32_decided_computes_16_bits(dtype: str) -> None:
    """On whatever CPU this is, of mixed lengths."""
    target = resolve_target("llvm", 2)
    spec, shape = load_presets()["bge-base"].spec(dtype), PrefillShape(3, 70)
    record = find_record(Finder([committed_root()]), target, spec, shape, accept=Tier.OTHER_TARGET)
    module = replay_record(record.entry, shape, spec)
    kernel = tvm.compile(module, target=target.target)["main"]
    assert kernel_error(kernel, spec, shape, np.array([70, 33, 0], "int32"), 0) <= TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("arch", "dtype", "level"),
    [
        ("sm_75", "float16", "cuda-sm_75"),
        ("sm_86", "float16", "cuda-sm_80"),
        ("sm_89", "bfloat16", "cuda-sm_80"),
    ],
)
def test_gpus_that_nobody_tuned_for_have_kernels_of_their_level(
    arch: str, dtype: str, level: str
) -> None:
    pytest.importorskip("cuda.bindings.nvrtc", reason="needs the extra [cuda]")
    target, finder = resolve_target("cuda", arch=arch), Finder([committed_root()])
    for preset in load_presets().values():
        for spec in preset.specs(dtype):
            serving = choose_serving(spec, target, finder, on_missing="nearest")
            (match,) = serving.matches.values()
            assert (match.tier, str(match.key)) == (Tier.PORTABLE, level)
            assert "timed on NVIDIA" in serving.notes[0]
            tuned = PrefillSpec.parse(match.entry.provenance.spec)
            assert (f" in {tuned.dtype}, timed" in serving.notes[0]) == (tuned.dtype != dtype)
    compile_device(replay_record(match.entry, None, spec), target.target)


def test_a_record_with_another_variant_is_refused() -> None:
    entries = RecordStore.open(committed_root(), H100).entries
    record = next(each for each in entries if each.provenance.space == "cuda_wgmma")
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
    assert without_end(record.trace) in [without_end(each.trace) for each in found]
