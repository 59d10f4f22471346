"""``prefilltune build`` and ``prefilltune explain``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from ...database import Finder, NoRecordError, Tier, committed_root
from ...workloads import PrefillSpec
from ..backends import USUAL_KIND
from .console import console
from .options import (
    ArchOption,
    DatabaseOption,
    DtypeOption,
    HeadsOption,
    MaskOption,
    ModelOption,
    ShapeOption,
    TargetOption,
    ThreadsOption,
    in_usual_dtype,
    tier_of,
    workload_of,
)
from .records import SEE_NEAR, nothing_tuned, tuned_shapes, warn_of_bad_lines, work_root
from .targets import prepare

if TYPE_CHECKING:
    from ..deployment import Plan
    from ..target import ResolvedTarget


def build(
    target: TargetOption = USUAL_KIND,
    model: ModelOption = "",
    heads: HeadsOption = "",
    mask_mode: MaskOption = "padded",
    dtype: DtypeOption = "",
    arch: ArchOption = None,
    shape: ShapeOption = None,
    accept: Annotated[
        str,
        typer.Option(
            "--accept",
            help="Furthest record to take: exact, family, other-target; for a GPU that is named "
            "by --arch alone, family at least.",
        ),
    ] = "exact",
    threads: ThreadsOption = None,
    database: DatabaseOption = None,
    output: Annotated[Path, typer.Option("--output", help="Folder for the library.")] = Path(
        "dist"
    ),
) -> None:
    """Build the tuned kernels of a model into one shared library; never tunes."""
    spec, shapes = workload_of(model, heads, mask_mode, dtype, shape, any_tuned=True)
    tier = tier_of(accept)
    resolved = prepare(target, threads, arch)
    spec = spec if dtype else in_usual_dtype(spec, resolved.kind)
    if not resolved.is_here:
        tier = max(tier, Tier.FAMILY)
    from ..building.apply import database_roots
    from ..deployment.library import build_kernels

    root = database or work_root()
    warn_of_bad_lines(resolved, root)
    if not shape:
        shapes = tuned_shapes(spec, resolved, root) or shapes
    if not shapes:
        raise nothing_tuned(spec, resolved, root, SEE_NEAR)
    roots = database_roots(root, committed_root())
    finder = Finder(roots)
    matches = [finder.find(resolved.key, spec, each, accept=tier) for each in shapes]
    for each, match in zip(shapes, matches, strict=True):
        if match.distance:
            raise NoRecordError(
                f"the nearest record of {spec} is for {match.entry.provenance.shape}, not {each}; "
                f"run: prefilltune tune --shape {each}"
            )
    plans, notes = _plans(spec, resolved, roots, tier)
    built = build_kernels(matches, plans, resolved, output)
    symbols = Column("symbol", overflow="fold")  # which are alike but for their ends
    table = Table(symbols, "record", "tier", title=f"{built.library}", title_justify="left")
    for symbol, match in zip(built.symbols, matches, strict=False):
        table.add_row(symbol, match.entry.record_id, str(match.tier))
    for symbol, plan in zip(built.symbols[len(matches) :], plans, strict=True):
        tiers = {str(match.tier) for match in plan.matches.values()}
        table.add_row(symbol, f"any of {len(plan.matches)}", ", ".join(sorted(tiers)))
    console.print(table)
    for note in notes:
        console.print(note, soft_wrap=True)
    console.print(
        f"wrote {built.library}, {built.manifest.name} and {built.header.name}", soft_wrap=True
    )


def explain(
    target: TargetOption = USUAL_KIND,
    model: ModelOption = "",
    heads: HeadsOption = "",
    mask_mode: MaskOption = "padded",
    dtype: DtypeOption = "",
    arch: ArchOption = None,
    on_missing: Annotated[
        str,
        typer.Option(
            "--on-missing",
            help="Where the target has no record: error, nearest (another device of the same "
            "architecture) or baseline (TVM's hand-written kernel).",
        ),
    ] = "error",
    threads: ThreadsOption = None,
    database: DatabaseOption = None,
    library: Annotated[
        Path | None, typer.Option("--library", help="What a built library says of itself instead.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As data.")] = False,
) -> None:
    """Say which tuned kernel serves which shapes of a model, and where it comes from."""
    from ..deployment.explanation import explanation_tables
    from ..deployment.metadata import read_metadata

    if library is not None:
        found = read_metadata(library)["kernels"]
    else:
        from ..building.apply import database_roots
        from ..deployment import make_plan

        spec, _ = workload_of(model, heads, mask_mode, dtype, None, any_tuned=True)
        resolved = prepare(target, threads, arch, compiler=False)
        spec = spec if dtype else in_usual_dtype(spec, resolved.kind)
        roots = database_roots(database or work_root(), committed_root())
        found = [make_plan(spec, resolved, roots, on_missing=on_missing).as_data()]
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for table in explanation_tables(found):
        console.print(table)
    for note in (note for each in found for note in each.get("notes", ())):
        console.print(note, soft_wrap=True)


def _plans(
    spec: PrefillSpec, target: ResolvedTarget, roots: Sequence[Path], tier: Tier
) -> tuple[list[Plan], list[str]]:
    """The plan for a kernel that serves every shape, where there can be one, and what to say."""
    from ..deployment import make_plan
    from ..errors import NotSweptError

    on_missing = "nearest" if tier >= Tier.FAMILY else "error"
    try:
        plan = make_plan(spec, target, roots, on_missing=on_missing)
    except (NotSweptError, NoRecordError) as error:
        return [], [f"no kernel for every shape is in it: {error}"]
    return [plan], list(plan.notes)
