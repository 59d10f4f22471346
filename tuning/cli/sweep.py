"""``prefilltune sweep``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...database import Finder
from ...workloads import PrefillShape, PrefillSpec, parse_lengths
from ..backends import USUAL_KIND
from .console import console
from .options import (
    DatabaseOption,
    DtypeOption,
    HeadsOption,
    MaskOption,
    ModelOption,
    ShapeOption,
    TargetOption,
    ThreadsOption,
    in_usual_dtype,
    workload_of,
)
from .records import nothing_tuned, open_databases, tuned_workloads, warn_of_bad_lines, work_root
from .targets import prepare

if TYPE_CHECKING:
    from ..target import ResolvedTarget


def sweep(
    target: TargetOption = USUAL_KIND,
    model: ModelOption = "",
    heads: HeadsOption = "",
    mask_mode: MaskOption = "padded",
    dtype: DtypeOption = "",
    shape: ShapeOption = None,
    lens: Annotated[
        list[str] | None,
        typer.Option("--lens", help="Repeat for more; full and uniform if absent."),
    ] = None,
    threads: ThreadsOption = None,
    database: DatabaseOption = None,
) -> None:
    """Time the tuned kernels of a model against one another on many shapes.

    So a kernel for every shape knows which of them serves which: `build` and the drop-in for TVM's
    kernel ask for it where a model has several. Shapes that are absent are chosen around those that
    were tuned. Without --model and --heads, all workloads with records that have not been swept.
    """
    wanted = None
    if model or heads:
        wanted, _ = workload_of(model, heads, mask_mode, dtype, shape, any_tuned=True)
    shapes = [PrefillShape.parse(text) for text in shape or ()]
    chosen = lens or ["full", "uniform"]
    for text in chosen:
        parse_lengths(text)
    resolved = prepare(target, threads, runs=True)
    root = database or work_root()
    databases = open_databases(root)
    warn_of_bad_lines(databases, resolved)
    if wanted is None:
        specs = _unswept(databases, resolved, dtype)
    else:
        specs = [wanted if dtype else in_usual_dtype(wanted, resolved.kind)]
    for spec in specs:
        _sweep(spec, resolved, databases, root, shapes, chosen)
    if not specs:
        console.print("nothing to do: every record is swept, or the only one of its workload")


def _unswept(databases: Finder, target: ResolvedTarget, dtype: str) -> list[PrefillSpec]:
    """The specs that several records could serve, not all of which a sweep knows."""
    from ..deployment import candidates, read_sweeps

    sweeps = [read_sweeps(root / str(target.key)) for root in databases.roots]

    def is_swept(spec: PrefillSpec) -> bool:
        found = candidates(databases, target.key, spec).keys()
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

    found = candidates(databases, target.key, spec)
    if not found:
        raise nothing_tuned(databases, target, spec)
    tuned = [PrefillShape.parse(match.entry.provenance.shape) for match in found.values()]
    with console.status("building") as status:
        measured = measure_sweep(
            spec,
            found,
            shapes or sample(tuned),
            lens,
            target,
            listener=lambda case: status.update(f"measuring {len(found)} kernels on {case.shape}"),
        )
    path = write_sweep(root / str(target.key), measured)
    for table in explanation_tables([choose_serving(spec, target, databases).as_data()]):
        console.print(table)
    console.print(f"wrote {path}", soft_wrap=True)
