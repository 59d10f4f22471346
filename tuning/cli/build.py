"""``prefilltune build`` and ``prefilltune explain``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from ...database import Finder, NoRecordError, Tier
from ...workloads import PrefillSpec
from ..heads import workload_options
from .console import console
from .options import DatabaseOption, ShapeOption, TargetOptions, WorkloadOptions, tier_of
from .records import open_databases, tuned_shapes, warn_of_bad_lines, work_root
from .targets import prepare

if TYPE_CHECKING:
    from ..deployment import Serving
    from ..target import ResolvedTarget


def build(
    *,
    workload: WorkloadOptions,
    shape: ShapeOption = None,
    target: TargetOptions,
    accept: Annotated[
        str,
        typer.Option(
            "--accept",
            help="Furthest record to take: exact, family, other-target; for a GPU that is named "
            "by --arch alone, family at least.",
        ),
    ] = "exact",
    database: DatabaseOption = None,
    output: Annotated[Path, typer.Option("--output", help="Folder for the library.")] = Path(
        "dist"
    ),
) -> None:
    """Build the tuned kernels of a model into one shared library; never tunes."""
    spec, shapes = workload.parse(shape, any_tuned=True)
    tier = tier_of(accept)
    resolved = prepare(target)
    spec = workload.in_dtype_for(spec, resolved.kind)
    if not resolved.is_here:
        tier = max(tier, Tier.FAMILY)
    from ..deployment.library import build_kernels

    databases = open_databases(database or work_root())
    warn_of_bad_lines(databases, resolved)
    if not shape:
        shapes = tuned_shapes(databases, resolved, spec, usual=shapes)
    matches = [databases.find(resolved.key, spec, each, accept=tier) for each in shapes]
    for each, match in zip(shapes, matches, strict=True):
        if match.distance:
            raise NoRecordError(
                f"the nearest record of {spec} is for {match.entry.provenance.shape}, not {each}; "
                f"run: prefilltune tune --target {resolved.kind} {workload_options(spec, each)}"
            )
    servings, notes = _servings(spec, resolved, databases, tier)
    built = build_kernels(matches, servings, resolved, output)
    symbols = Column("symbol", overflow="fold")  # they differ in their ends, so none is cut off
    table = Table(symbols, "record", "tier", title=f"{built.library}", title_justify="left")
    for symbol, match in zip(built.symbols, matches, strict=False):
        table.add_row(symbol, match.entry.record_id, str(match.tier))
    for symbol, serving in zip(built.symbols[len(matches) :], servings, strict=True):
        tiers = {str(match.tier) for match in serving.matches.values()}
        table.add_row(symbol, f"any of {len(serving.matches)}", ", ".join(sorted(tiers)))
    console.print(table)
    for note in notes:
        console.print(note, soft_wrap=True)
    console.print(
        f"wrote {built.library}, {built.manifest.name} and {built.header.name}", soft_wrap=True
    )


def explain(
    workload: WorkloadOptions,
    target: TargetOptions,
    on_missing: Annotated[
        str,
        typer.Option(
            "--on-missing",
            help="Where the target has no record: error, nearest (another device of the same "
            "architecture) or baseline (TVM's hand-written kernel).",
        ),
    ] = "error",
    database: DatabaseOption = None,
    library: Annotated[
        Path | None, typer.Option("--library", help="What a built library says of itself instead.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As data.")] = False,
) -> None:
    """Say which tuned kernel serves which shapes of a model, and where it comes from."""
    from ..backends import backend_of
    from ..deployment.explanation import explanation_tables
    from ..deployment.metadata import read_metadata

    needs = ""
    if library is not None:
        metadata = read_metadata(library)
        found = metadata["kernels"]
        if "requires" in metadata:
            needs = backend_of(metadata["target"]["kind"]).in_words(metadata["requires"])
    else:
        from ..deployment import choose_serving

        spec, _ = workload.parse(None, any_tuned=True)
        resolved = prepare(target, compiler=False)
        spec = workload.in_dtype_for(spec, resolved.kind)
        databases = open_databases(database or work_root())
        found = [choose_serving(spec, resolved, databases, on_missing=on_missing).as_data()]
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for table in explanation_tables(found):
        console.print(table)
    if needs:
        console.print(f"runs on {needs}", soft_wrap=True)
    for note in (note for each in found for note in each.get("notes", ())):
        console.print(note, soft_wrap=True)


def _servings(
    spec: PrefillSpec, target: ResolvedTarget, databases: Finder, tier: Tier
) -> tuple[list[Serving], list[str]]:
    """What a kernel for every shape is made of, where there can be one, and what to say."""
    from ..deployment import choose_serving
    from ..errors import NotSweptError

    on_missing = "nearest" if tier >= Tier.FAMILY else "error"
    try:
        serving = choose_serving(spec, target, databases, on_missing=on_missing)
    except (NotSweptError, NoRecordError) as error:
        return [], [f"no kernel for every shape is in it: {error}"]
    return [serving], list(serving.notes)
