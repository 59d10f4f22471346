"""``prefilltune sweep``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...database import Finder, TargetKey, Tier
from ...database.writing import require_replaceable
from ...workloads import PrefillShape, PrefillSpec
from .console import console, print_table, under_way
from .options import (
    DatabaseOption,
    LensOption,
    ShapeOption,
    TargetOptions,
    WorkloadOptions,
    checked_lens,
    parse_shapes,
)
from .records import (
    nothing_tuned,
    open_databases,
    tuned_workloads,
    warn_of_bad_lines,
    work_root,
)
from .targets import prepare

if TYPE_CHECKING:
    from ..target import ResolvedTarget


def sweep(
    *,
    workload: WorkloadOptions,
    shape: ShapeOption = None,
    lens: LensOption = None,
    target: TargetOptions,
    database: DatabaseOption = None,
) -> None:
    """Time the tuned kernels of a model against one another on many shapes.

    So a kernel for every shape knows which of them serves which: `build` and the
    drop-in for TVM's kernel ask for it where a model has several. Without a sweep
    the one that was tuned on the nearest shape serves.

    Records of other devices of this one's family are timed with its own, for they
    serve beside them.

    Measured without --shape: shapes around those that were tuned.

    Without --model and --heads: all workloads with records of this device that
    have not been swept.
    """
    wanted = workload.parse_if_given(shape)
    shapes = parse_shapes(shape)
    chosen = checked_lens(lens)
    resolved = prepare(target, runs=True)
    root = database or work_root()
    databases = open_databases(root)
    warn_of_bad_lines(databases, resolved, _reach(resolved))
    if wanted is None:
        specs = _unswept(databases, resolved, workload.dtype)
    else:
        specs = workload.in_dtype_for(wanted[0], resolved.kind)
    from ..deployment import SWEEP_FILE

    if specs:
        require_replaceable(root / str(resolved.key) / SWEEP_FILE)
    for spec in specs:
        _sweep(spec, resolved, databases, root, shapes, chosen)
    if not specs:
        console.print("nothing to do: every record is swept, or the only one of its workload")


def _unswept(databases: Finder, target: ResolvedTarget, dtype: str) -> list[PrefillSpec]:
    """The specs that several records could serve, not all of which a sweep knows."""
    from ..deployment import candidates, read_sweeps

    keys = _served_by(databases, target)
    sweeps = [read_sweeps(root / str(target.key)) for root in databases.roots]

    def is_swept(spec: PrefillSpec) -> bool:
        found = candidates(databases, keys, spec).keys()
        known = [each[str(spec)].records for each in sweeps if str(spec) in each]
        return len(found) < 2 or any(found <= set(records) for records in known)

    tuned = dict.fromkeys(spec for spec, _ in tuned_workloads(databases, target, dtype, []))
    return [spec for spec in tuned if not is_swept(spec)]


def _sweep(
    spec: PrefillSpec,
    target: ResolvedTarget,
    databases: Finder,
    root: Path,
    shapes: Sequence[PrefillShape],
    lens: Sequence[str],
) -> None:
    from ..deployment import candidates, choose_serving, measure_sweep, sample, write_sweep
    from ..deployment.explanation import explanation_tables

    found = candidates(databases, _served_by(databases, target), spec)
    if not found:
        raise nothing_tuned(databases, target, spec)
    tuned = [PrefillShape.parse(match.entry.provenance.shape) for match in found.values()]
    with under_way("building") as status:
        measured = measure_sweep(
            spec,
            found,
            shapes or sample(tuned),
            lens,
            target,
            listener=lambda case: status.update(f"measuring {len(found)} kernels on {case.shape}"),
        )
    path = write_sweep(root / str(target.key), measured)
    serving = choose_serving(spec, target, databases, accept=_reach(target))
    for table in explanation_tables([serving.as_data()]):
        print_table(table)
    console.print(f"wrote {path}", soft_wrap=True)


def _reach(target: ResolvedTarget) -> Tier:
    """Whose records are timed: those of a level are for every device, and so are its sweeps."""
    return Tier.FAMILY if target.key.device else Tier.EXACT


def _served_by(databases: Finder, target: ResolvedTarget) -> list[TargetKey]:
    """The devices whose records serve a target side by side, itself first."""
    family, *_ = databases.families(target.key, _reach(target))
    return databases.readable(target.key, family)[0]
