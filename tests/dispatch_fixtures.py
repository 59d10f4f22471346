"""For tests of dispatch: real records of small specs, scheduled without a search, never timed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from database_fixtures import PROVENANCE, trace_of
from tvm import s_tir

from prefilltune.database import Entry, RecordStore, TargetKey, entry_from
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.describing import describe_for_every_shape
from prefilltune.tuning.building.replaying import replay_record
from prefilltune.tuning.deployment import Point, Sweep, write_sweep
from prefilltune.tuning.spaces.llvm_fused import LlvmFused, Vectors, schedule
from prefilltune.tuning.target import ResolvedTarget
from prefilltune.workloads import PrefillShape, PrefillSpec, SymbolicShape

SPEC = PrefillSpec(2, 1, 16, "float32")
SHORT, LONG = PrefillShape(1, 16), PrefillShape(2, 64)


@cache
def target() -> ResolvedTarget:
    return resolve_target("llvm", 1)  # of which no machine has committed records


@cache
def record(
    spec: PrefillSpec,
    shape: PrefillShape,
    *,
    q_tile: int = 16,
    packed: bool = False,
    seed: int = 1,
    sized: bool = False,
) -> Entry:
    """A record with decisions drawn at random.

    Parameters
    ----------
    sized : bool
        Whether its description has the sizes of its shape, as earlier versions wrote it.
    """
    variant = {"q_tile": q_tile, "kv_tile": 32, "packed": packed}
    description = LlvmFused().describe(spec, shape, variant)
    sch = s_tir.Schedule(description, seed=seed)
    schedule(sch, packed=packed, vectors=Vectors.of(variant))
    provenance = replace(
        PROVENANCE, spec=str(spec), shape=str(shape), space=LlvmFused.name, variant=variant
    )
    symbolic = None if sized else describe_for_every_shape(LlvmFused.name, spec, variant)
    return entry_from(description, trace_of(sch), [2e-3], target().target, provenance, symbolic)


def scheduled(spec: PrefillSpec, shape: PrefillShape, sizes: SymbolicShape) -> Any:
    """The kernel of a record of ``spec`` at ``shape``, for every size."""
    return replay_record(record(spec, shape), sizes)["main"]


def database(root: Path, *entries: Entry) -> Path:
    """A database of this machine; returns ``root``."""
    RecordStore.open(root, target().key, create=True).add(list(entries))
    return root


def swept(
    root: Path,
    spec: PrefillSpec,
    seconds: Mapping[str, Mapping[str, float]],
    key: TargetKey | None = None,
    date: str = "2026-11-23",
) -> Path:
    """Add a sweep of ``spec``: the times of each record, by shape; returns the file.

    Lengths are full, or what stands behind the shape.
    """
    points = tuple(
        Point(PrefillShape.parse(shape), lens or "full", times)
        for (shape, _, lens), times in zip(
            (each.partition(" ") for each in seconds), seconds.values(), strict=True
        )
    )
    records = tuple(points[0].seconds)
    sweep = Sweep(str(spec), 0, {"name": "test"}, date, {}, records, points)
    return write_sweep(root / str(key or target().key), sweep)
