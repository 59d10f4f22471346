"""``prefilltune tune`` and ``prefilltune status``."""

from __future__ import annotations

from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...database import Tier
from ...workloads import Case, parse_lengths
from ..backends import USUAL_KIND
from ..duration import format_duration, parse_duration
from ..errors import InvalidOptionError
from .compare import compare_all
from .console import console
from .options import (
    ArchOption,
    DatabaseOption,
    DevicesOption,
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
from .records import open_databases, warn_of_bad_lines, work_root
from .targets import choose_spaces, open_devices

if TYPE_CHECKING:
    from ..search.tune import TuneResult

_DEFAULT_BUDGET = "140s"


def tune(
    target: TargetOption = USUAL_KIND,
    model: ModelOption = "",
    heads: HeadsOption = "",
    mask_mode: MaskOption = "padded",
    dtype: DtypeOption = "",
    arch: ArchOption = None,
    shape: ShapeOption = None,
    lens: Annotated[
        str,
        typer.Option(
            "--lens", help="Lengths to time on: full, uniform, fixed:..., histogram:FILE."
        ),
    ] = "full",
    trials: Annotated[
        int | None, typer.Option("--trials", help="Candidates to measure for each shape.")
    ] = None,
    budget: Annotated[
        str, typer.Option("--budget", help="Time for each shape, such as 90s or 5m.")
    ] = "",
    seed: Annotated[int, typer.Option("--seed", help="Of the search and its inputs.")] = 0,
    space: Annotated[
        list[str] | None,
        typer.Option(
            "--space",
            help="A design space; repeat for more. When absent, on a CPU all, on a GPU the fastest "
            "that can schedule the workload.",
        ),
    ] = None,
    keep: Annotated[int, typer.Option("--keep", help="Records kept of each space.")] = 2,
    threads: ThreadsOption = None,
    database: DatabaseOption = None,
    compare: Annotated[
        bool, typer.Option("--compare/--no-compare", help="End with the comparison.")
    ] = True,
    tracker: Annotated[
        str,
        typer.Option(
            "--tracker", metavar="HOST:PORT", help="Measure on the devices of a tracker's workers."
        ),
    ] = "",
    key: Annotated[str, typer.Option("--key", help="With --tracker: which devices.")] = "",
    devices: DevicesOption = "",
    plan: Annotated[
        Path | None,
        typer.Option("--plan", help="A TOML file that says what to tune, instead of the options."),
    ] = None,
) -> None:
    """Search for fast kernels and keep the best, verified, in the database."""
    if plan is not None:
        said = (model, heads, dtype, arch, shape, trials, budget, seed, space, threads, tracker)
        changed = (target, mask_mode, lens, keep) != (USUAL_KIND, "padded", "full", 2)
        if any(said) or key or devices or changed:
            raise InvalidOptionError(
                "--plan says what to tune, where and how long; leave out every other option but "
                "--database"
            )
        _tune_plan(plan, database or work_root())
        return
    spec, shapes = workload_of(model, heads, mask_mode, dtype, shape)
    lengths = parse_lengths(lens)
    trials, seconds = _limit(trials, budget)
    if keep < 1:
        raise InvalidOptionError(f"--keep is {keep}; it must be 1 or more")
    if not 0 <= seed < 2**30:
        raise InvalidOptionError(f"--seed is {seed}; it must lie in 0 to {2**30 - 1}")
    with ExitStack() as stack:
        places = open_devices(target, threads, arch, tracker, key, devices)
        resolved, pool = stack.enter_context(places)
        spec = spec if dtype else in_usual_dtype(spec, resolved.kind)
        from ..devices.opening import local_pool
        from ..search.builders import local_builders
        from ..search.progress import SearchDisplay
        from ..search.state import Limit
        from ..search.tune import tune_case

        spaces = choose_spaces(space, spec, shapes, resolved)
        root = database or work_root()
        warn_of_bad_lines(open_databases(root), resolved)
        builders = None
        if len(shapes) > 1:  # whose processes need not start for each
            pool = pool or stack.enter_context(local_pool(resolved))
            builders = stack.enter_context(local_builders())
        for each in shapes:
            case = Case(spec, each, lengths, seed)
            with SearchDisplay(console, case.on(resolved.key)) as display:
                result = tune_case(
                    case,
                    resolved,
                    spaces,
                    Limit(trials, seconds),
                    root,
                    keep,
                    display.update,
                    pool,
                    builders,
                )
            _print_kept(result, root)
            if result.interrupted:
                console.print(
                    "interrupted; run the same command again and the search goes on from "
                    f"{result.log}",
                    soft_wrap=True,
                )
                raise typer.Exit(130)
    if tracker:
        return  # the comparison is measured where it runs
    if not compare:
        return
    from ..comparing.comparer import bench_of
    from ..comparing.report import TORCH_HINT

    if bench_of(resolved.kind).needs_torch and not find_spec("torch"):
        console.print(TORCH_HINT, soft_wrap=True)
    else:
        workloads = [(spec, each) for each in shapes]
        folder = root / str(resolved.key)
        compare_all(workloads, resolved, [lens], open_databases(root), Tier.EXACT, folder)


def status(
    plan: Annotated[
        str, typer.Argument(help="A plan's file or its name; every plan when absent.")
    ] = "",
    database: DatabaseOption = None,
) -> None:
    """Show how far tuning plans are; needs no device and no TVM."""
    from ..plans.status import plan_tables

    for table in plan_tables(database or work_root(), Path(plan).stem):
        console.print(table)


def _limit(trials: int | None, budget: str) -> tuple[int | None, float | None]:
    if trials is not None and trials < 1:
        raise InvalidOptionError(f"--trials is {trials}; it must be 1 or more")
    if trials is None and not budget:
        budget = _DEFAULT_BUDGET
    return trials, parse_duration(budget) if budget else None


def _tune_plan(path: Path, root: Path) -> None:
    """Run a plan; its searches take their shares of the targets' devices."""
    from ..plans.plan import read_plan

    plan = read_plan(path)
    from ..devices.machine import Wanted
    from ..plans.agenda import PlannedCase
    from ..plans.job import run_plan
    from ..plans.sharing import target_devices
    from ..search.progress import PlanDisplay

    cases: list[PlannedCase] = []
    for each in plan.targets:
        wanted = Wanted(each.target, each.threads, each.arch)
        places = (each.tracker, each.key, each.devices)
        with open_devices(each.target, each.threads, each.arch, *places) as (resolved, pool):
            devices = target_devices(each, len(pool.slots) if pool is not None else 1)
        warn_of_bad_lines(open_databases(root), resolved)
        for spec, shape in plan.workloads:
            spec = spec if plan.has_dtypes else in_usual_dtype(spec, resolved.kind)
            case = Case(spec, shape, parse_lengths(plan.lens), plan.seed)
            spaces = tuple(choose_spaces(None, spec, [shape], resolved))
            cases.append(PlannedCase(case, resolved, spaces, wanted, devices))
    with PlanDisplay(console) as display:
        ended = run_plan(
            plan, cases, root, display.search, lambda line: console.print(line, soft_wrap=True)
        )
    if not ended:
        console.print("interrupted; run the same command again to go on from there")
        raise typer.Exit(130)


def _print_kept(result: TuneResult, root: Path) -> None:
    state = result.state
    failed = ", ".join(f"{count} {kind}" for kind, count in sorted(state.failures.items()))
    pace = state.trials / max(state.elapsed, 1e-9) * 60
    console.print(
        f"{state.trials} trials in {format_duration(state.elapsed)} "
        f"({pace:.0f} a minute; failed: {failed or 'none'}); "
        f"{len(result.kept)} verified records kept in {root}",
        soft_wrap=True,
    )
    if state.faults:
        faults = ", ".join(f"{count} {kind}" for kind, count in sorted(state.faults.items()))
        console.print(f"faults of devices and builders, survived: {faults}", soft_wrap=True)
    for note in state.notes:
        console.print(note, soft_wrap=True)
    for entry in result.kept:
        provenance = entry.provenance
        parameters = ", ".join(f"{name}={value}" for name, value in provenance.variant.items())
        console.print(
            f"  {entry.record_id}  {provenance.median_secs * 1e3:.3f} ms  error "
            f"{provenance.max_abs_error:.1e}  {provenance.space}  {parameters}",
            soft_wrap=True,
        )
