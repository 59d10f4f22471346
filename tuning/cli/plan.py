"""``prefilltune plan run | status``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ...workloads import Case, parse_lengths
from .console import console, print_table
from .ending import ending_of
from .options import DeviceOptions, OwnDatabaseOption, TargetOptions, in_usual_dtype
from .records import open_databases, warn_of_bad_lines, work_root
from .targets import choose_spaces, open_devices

app = typer.Typer(
    no_args_is_help=True, help="Tune many workloads as one job, which can be gone on with."
)


@app.command()
def run(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="TOML: what to tune, where and how long.")
    ],
    database: OwnDatabaseOption = None,
) -> None:
    """Begin a plan, or go on with it; its searches share the targets' devices."""
    from ..plans.plan import read_plan

    plan = read_plan(file)
    root = database or work_root()
    from ..devices.machine import Wanted
    from ..plans.agenda import PlannedCase
    from ..plans.job import run_plan
    from ..plans.sharing import target_devices
    from ..search.progress import PlanDisplay

    cases: list[PlannedCase] = []
    for each in plan.targets:
        places = DeviceOptions(each.tracker, each.key, each.devices)
        with open_devices(TargetOptions(each.target, each.arch, each.threads), places) as opened:
            resolved, pool = opened
            devices = target_devices(each, len(pool.slots) if pool is not None else 1)
        warn_of_bad_lines(open_databases(root), resolved)
        wanted = Wanted(each.target, each.threads, each.arch)
        wanted_cases: dict[Case, None] = {}
        for spec, shape in plan.workloads:
            spec = spec if plan.has_dtypes else in_usual_dtype(spec, resolved.kind)
            spec = replace(spec, lse_dtype=plan.lse_dtype)
            case = Case(spec, shape, parse_lengths(plan.lens), plan.seed)
            wanted_cases[case.as_tuned] = None
        for case in wanted_cases:
            spaces = tuple(choose_spaces(None, case.spec, [case.shape], resolved))
            cases.append(PlannedCase(case, resolved, spaces, wanted, devices))
    ending = ending_of(context)
    ending.advice = "run the same command again to go on from there"
    with PlanDisplay(console) as display, ending.patient() as wish:
        run_plan(
            plan,
            cases,
            root,
            display.search,
            lambda line: console.print(line, soft_wrap=True),
            wish,
        )


@app.command()
def status(
    plan: Annotated[
        str, typer.Argument(metavar="PLAN", help="A plan's file or its name; every plan if absent.")
    ] = "",
    database: OwnDatabaseOption = None,
) -> None:
    """Show how far tuning plans are; needs no device and no TVM."""
    from ..plans.ledger import ledger_path
    from ..plans.status import plan_tables

    root, file = database or work_root(), Path(plan)
    named = (each for each in (file.name, file.stem) if ledger_path(root, each).is_file())
    name = next(named, file.name)
    for table in plan_tables(root, name):
        print_table(table)
