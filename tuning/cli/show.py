"""``prefilltune show``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from ...database import Finder, NoRecordError, Tier
from ...database.writing import write_file
from ...workloads import PrefillShape, PrefillSpec, parse_lengths
from ..errors import InvalidOptionError
from .console import console, print_code, print_table
from .db.opened import database_option, find_record, open_all
from .options import (
    NEAREST,
    AcceptOption,
    DatabaseOption,
    ServedLensOption,
    TargetOptions,
    WorkloadOptions,
    check_accept,
    tier_of,
)
from .records import open_databases, tuned_shapes, warn_of_bad_lines, work_root
from .targets import choose_spaces, prepare

if TYPE_CHECKING:
    from ..building.showing import Kernel
    from ..target import ResolvedTarget


def show(
    *,
    workload: WorkloadOptions,
    shape: Annotated[
        str,
        typer.Option(
            "--shape",
            metavar="BATCHxLEN",
            help="Or BATCHxQO_LENxKV_LEN; when absent, the first that has a record, or else a "
            "model's first usual one.",
        ),
    ] = "",
    lens: ServedLensOption = "",
    target: TargetOptions,
    accept: AcceptOption = NEAREST,
    database: DatabaseOption = None,
    record: Annotated[
        str,
        typer.Option(
            "--record",
            metavar="ID",
            help="Of the kernel, or its start, in the place of a workload and a target; "
            "`prefilltune db list` shows all.",
        ),
    ] = "",
    stage: Annotated[
        str,
        typer.Option(
            "--stage",
            help="plain, online, tiled, scheduled or source; how long each is, when absent.",
        ),
    ] = "",
    output: Annotated[
        Path | None, typer.Option("--output", help="With --stage: a file for it.")
    ] = None,
) -> None:
    """Print a kernel on its way from the plain description to machine code.

    It is the tuned one that would be built; of a model, for its first attention unless
    --model names another. What is there before anything is tuned
    (plain, online, tiled) is shown for any workload.
    """
    if output is not None and not stage:
        raise InvalidOptionError("--output takes one stage; name it with --stage")
    if record:
        others = (workload != WorkloadOptions(), target != TargetOptions(), bool(shape))
        if any((*others, bool(lens), accept != NEAREST)):
            raise InvalidOptionError(
                "--record says which workload and target it is of: leave out other options than "
                "--database, --stage and --output"
            )
        kernel, again, missing = *_of_record(record, database), None
    else:
        kernel, again, missing = _of_workload(workload, shape, lens, target, accept, database)
    _print(kernel, stage, output, again, missing)


def _print(
    kernel: Kernel, stage: str, output: Path | None, again: str, missing: NoRecordError | None
) -> None:
    """A stage of a kernel, or all stages in short.

    Parameters
    ----------
    again : str
        The command that shows it.
    missing : NoRecordError, optional
        Why it has no record.
    """
    from ..building.showing import STAGES, UNTUNED, show_stage

    if not stage:
        title = f"{kernel.spec} at {kernel.shape}"
        if kernel.entry is not None:
            title += f", record {kernel.entry.record_id}"
        table = Table("stage", Column("lines", justify="right"), "what it is", title=title,
                      title_justify="left")  # fmt: skip
        for name, words in STAGES.items():
            known = missing is None or name in UNTUNED
            table.add_row(name, str(show_stage(name, kernel).lines) if known else "-", words)
        print_table(table)
        if missing is not None:
            console.print(str(missing), soft_wrap=True)
        console.print(f"to read one, run: {again} --stage online", soft_wrap=True)
        return
    if stage not in STAGES:
        raise InvalidOptionError(f"--stage is {stage!r}; choose {', '.join(STAGES)}")
    if missing is not None and stage not in UNTUNED:
        raise missing
    shown = show_stage(stage, kernel)
    if output is None:
        print_code(str(shown), shown.language)
    else:
        write_file(output, f"{shown}\n".encode())
        console.print(f"wrote {output}, {shown.lines} lines", soft_wrap=True)


def _of_record(start: str, database: Path | None) -> tuple[Kernel, str]:
    """The kernel of a record, and the command that shows it."""
    from ..measuring.tvm_import import import_tvm_without_torch

    roots = open_databases(database or work_root()).roots
    _, entry = find_record(start, open_all([each for each in roots if each.is_dir()], ""), database)
    import_tvm_without_torch()
    from tvm.target import Target

    from ..building.replaying import origin_of
    from ..building.showing import Kernel

    space, spec, shape, variant = origin_of(entry)
    target = Target(entry.target_json)
    again = f"prefilltune show --record {entry.record_id}"
    if database is not None:
        again += f" {database_option(database)}"
    return Kernel(spec, shape, target, space.name, variant, entry), again


def _of_workload(
    workload: WorkloadOptions,
    shape: str,
    lens: str,
    target: TargetOptions,
    accept: str,
    database: Path | None,
) -> tuple[Kernel, str, NoRecordError | None]:
    """The kernel that a build has for a workload, the command that shows it, and what it lacks."""
    specs, shapes = workload.parse([shape] if shape else None, any_tuned=True)
    check_accept(accept)
    if lens:
        parse_lengths(lens)
    resolved = prepare(target, compiler=False)
    tier = tier_of(accept, resolved)
    spec = workload.in_dtype_for(specs, resolved.kind)[0]
    from ..backends.commands import command
    from ..building.replaying import origin_of
    from ..building.showing import Kernel
    from ..deployment import choose_kernel
    from ..spaces import SPACES

    databases = open_databases(database or work_root())
    nearest = accept == NEAREST
    warn_of_bad_lines(databases, resolved, tier, nearest=nearest)
    chosen = shapes[0] if shape else _first_shape(databases, resolved, spec, shapes, tier, nearest)
    options = [f"--accept {accept}"] * (accept != NEAREST)
    if lens:
        options.append(f"--lens {shlex.quote(lens)}")
    again = command(
        "show", resolved, spec, chosen, database=databases.roots[0], more=" ".join(options)
    )
    try:
        match, _ = choose_kernel(spec, chosen, resolved, databases, accept=tier, lens=lens)
    except NoRecordError as error:
        name = choose_spaces(None, spec, [chosen], resolved)[0]
        variant = SPACES[name].variants(spec, chosen, resolved)[0]
        return Kernel(spec, chosen, resolved.target, name, variant), again, error
    space, _, _, variant = origin_of(match.entry)
    variant = space.variant_for(spec, variant)
    kernel = Kernel(spec, chosen, resolved.target, space.name, variant, match.entry)
    return kernel, again, None


def _first_shape(
    databases: Finder,
    target: ResolvedTarget,
    spec: PrefillSpec,
    usual: list[PrefillShape],
    tier: Tier,
    nearest: bool,
) -> PrefillShape:
    try:
        return tuned_shapes(databases, target, spec, usual, tier, nearest=nearest)[0]
    except NoRecordError as error:
        raise InvalidOptionError(
            "nothing says which shape is meant, for these heads have no record; give one, such as "
            "--shape 4x128"
        ) from error
