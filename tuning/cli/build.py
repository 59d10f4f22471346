"""``prefilltune build`` and ``prefilltune explain``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from ...database import Match, NoRecordError, Tier
from ...workloads import PrefillShape, PrefillSpec, parse_lengths
from ..errors import InvalidOptionError
from .console import console, print_table
from .options import (
    NEAREST,
    AcceptOption,
    DatabaseOption,
    ServedLensOption,
    ShapeOption,
    TargetOptions,
    WorkloadOptions,
    check_accept,
    tier_of,
)
from .records import open_databases, tuned_shapes, warn_of_bad_lines, work_root
from .targets import prepare

if TYPE_CHECKING:
    from ..deployment import Serving


def build(
    *,
    workload: WorkloadOptions,
    shape: ShapeOption = None,
    lens: ServedLensOption = "",
    target: TargetOptions,
    accept: AcceptOption = NEAREST,
    database: DatabaseOption = None,
    output: Annotated[Path, typer.Option("--output", help="Folder for the library.")] = Path(
        "dist"
    ),
) -> None:
    """Build the tuned kernels of a model into one shared library; never tunes.

    A kernel for each --shape, else for each shape that has a record; and one
    that serves every shape.
    """
    specs, usual = workload.parse(shape, any_tuned=True)
    check_accept(accept)
    if lens:
        parse_lengths(lens)
    resolved = prepare(target)
    tier = tier_of(accept, resolved)
    specs = workload.in_dtype_for(specs, resolved.kind)
    from ..backends.commands import stand_ins, windows_that_hide_nothing
    from ..deployment import choose_kernel, choose_serving
    from ..deployment.explanation import explanation_lines
    from ..deployment.library import build_kernels

    databases = open_databases(database or work_root())
    nearest = accept == NEAREST
    warn_of_bad_lines(databases, resolved, tier, nearest=nearest)
    fixed: list[tuple[PrefillSpec, PrefillShape, Match]] = []
    servings: list[Serving] = []
    missing: list[str] = []
    for spec in specs:
        if spec.is_packed and shape:
            raise InvalidOptionError(
                f"--shape {shape[0]} is given for packed sequences, of which one kernel serves all "
                "batches and lengths: leave it out"
            )
        if spec.is_packed:
            chosen = []
        elif not shape:
            chosen = tuned_shapes(databases, resolved, spec, usual, tier, nearest=nearest)
        for each in usual if shape else chosen:
            match, _ = choose_kernel(spec, each, resolved, databases, accept=tier, lens=lens)
            fixed.append((spec, each, match))
        try:  # what a kernel for every shape is made of
            servings.append(choose_serving(spec, resolved, databases, accept=tier, lens=lens))
        except NoRecordError as error:
            if spec.is_packed:  # there would be nothing of it in the library
                raise
            missing.append(f"no kernel for every shape is in it: {error}")
    built = build_kernels(fixed, servings, resolved, output)
    symbols = Column("symbol", overflow="fold")  # they differ in their ends, so none is cut off
    table = Table(symbols, "record", "tier", title=f"{built.library}", title_justify="left")
    for symbol, (_, _, match) in zip(built.symbols, fixed, strict=False):
        table.add_row(symbol, match.entry.record_id, str(match.tier))
    for symbol, serving in zip(built.symbols[len(fixed) :], servings, strict=True):
        tiers = {str(match.tier) for match in serving.matches.values()}
        table.add_row(symbol, f"any of {len(serving.matches)}", ", ".join(sorted(tiers)))
    print_table(table)
    explained = list(explanation_lines(each.as_data() for each in servings))
    noted = {record for serving in servings for record in serving.matches}
    stand_in_lines = []
    for spec in specs:
        of_spec = {shape: match for of, shape, match in fixed if of == spec}
        stand_in_lines += windows_that_hide_nothing(of_spec, spec)
        matches = {
            shape: match
            for shape, match in of_spec.items()
            if (match.tier is Tier.NEAREST_SHAPE or match.entry.record_id not in noted)
        }
        stand_in_lines += stand_ins(matches, resolved, spec, databases.roots[0])
    for line in (*missing, *stand_in_lines, *explained):
        console.print(line, soft_wrap=True)
    console.print(
        f"wrote {built.library}, {built.manifest.name} and {built.header.name}", soft_wrap=True
    )


def explain(
    workload: WorkloadOptions,
    lens: ServedLensOption = "",
    *,
    target: TargetOptions,
    accept: AcceptOption = NEAREST,
    on_missing: Annotated[
        str,
        typer.Option(
            "--on-missing",
            help="Where no record is accepted: error, nearest (as --accept nearest) or baseline "
            "(TVM's hand-written kernel, which there is for GPUs).",
        ),
    ] = "error",
    database: DatabaseOption = None,
    library: Annotated[
        Path | None,
        typer.Option(
            "--library",
            help="What a built library says of itself instead; alone, or with --json.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As data.")] = False,
) -> None:
    """Say which tuned kernel serves which shapes of a model, and where it comes from."""
    from ..backends import backend_of
    from ..deployment.explanation import explanation_lines, explanation_tables
    from ..deployment.metadata import read_metadata

    needs = ""
    if library is not None:
        others = (workload != WorkloadOptions(), target != TargetOptions(), bool(lens))
        if any((*others, accept != NEAREST, on_missing != "error", database is not None)):
            raise InvalidOptionError(
                "--library tells what was built, whatever other options say: give it alone, or "
                "with --json"
            )
        metadata = read_metadata(library)
        found = metadata["kernels"]
        if "requires" in metadata:
            needs = backend_of(metadata["target"]["kind"]).in_words(metadata["requires"])
    else:
        from ..deployment import choose_serving

        specs, _ = workload.parse(None, any_tuned=True)
        check_accept(accept)
        resolved = prepare(target, compiler=False)
        tier = tier_of(accept, resolved)
        databases = open_databases(database or work_root())
        servings = [
            choose_serving(each, resolved, databases, on_missing=on_missing, accept=tier, lens=lens)
            for each in workload.in_dtype_for(specs, resolved.kind)
        ]
        found = [each.as_data() for each in servings]
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for table in explanation_tables(found):
        print_table(table)
    if needs:
        console.print(f"runs on {needs}", soft_wrap=True)
    for line in explanation_lines(found):
        console.print(line, soft_wrap=True)
