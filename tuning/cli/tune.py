"""``prefilltune tune``."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...database import RecordStore, TargetKey, Tier
from ...database.dates import date_now, moment
from ...workloads import Case, PrefillShape, PrefillSpec, parse_lengths
from ...workloads.phrases import tuned_as
from ..counting import count
from ..duration import format_duration, parse_duration
from ..errors import InvalidOptionError
from .compare import compare_all, require_comparable
from .console import console
from .ending import ending_of
from .moved import moved
from .options import DeviceOptions, OwnDatabaseOption, ShapeOption, TargetOptions, WorkloadOptions
from .records import open_databases, warn_of_bad_lines, work_root
from .targets import choose_spaces, open_devices

if TYPE_CHECKING:
    from ..search.state import SearchState
    from ..search.tune import TuneResult
    from ..target import ResolvedTarget

_DEFAULT_BUDGET = "140s"


@dataclass(frozen=True)
class SearchOptions:
    """What a search tries, for how long, and what is kept of it."""

    trials: Annotated[
        int | None, typer.Option("--trials", help="Candidates to measure for each shape.")
    ] = None
    budget: Annotated[
        str,
        typer.Option(
            "--budget",
            help="Time for each shape, such as 90s or 5m; "
            f"{_DEFAULT_BUDGET} when absent and no --trials are given.",
        ),
    ] = ""
    seed: Annotated[int, typer.Option("--seed", help="Of the search and its inputs.")] = 0
    space: Annotated[
        list[str] | None,
        typer.Option(
            "--space",
            help="A design space; repeat for more. When absent, on a CPU all, on a GPU the fastest "
            "that can schedule the workload.",
        ),
    ] = None
    keep: Annotated[
        int, typer.Option("--keep", help="Records kept of each shape and design space.")
    ] = 2

    def __post_init__(self) -> None:
        """Refuse what no search can do."""
        parse_duration(self.budget or _DEFAULT_BUDGET)
        if self.trials is not None and self.trials < 1:
            raise InvalidOptionError(f"--trials is {self.trials}; it must be 1 or more")
        if self.keep < 1:
            raise InvalidOptionError(f"--keep is {self.keep}; it must be 1 or more")
        if not 0 <= self.seed < 2**30:
            raise InvalidOptionError(f"--seed is {self.seed}; it must lie in 0 to {2**30 - 1}")

    @property
    def seconds(self) -> float | None:
        """Of the search for each shape; ``None`` where trials alone end it."""
        if self.trials is not None and not self.budget:
            return None
        return parse_duration(self.budget or _DEFAULT_BUDGET)


def tune(
    *,
    context: typer.Context,
    workload: WorkloadOptions,
    shape: ShapeOption = None,
    lens: Annotated[
        str,
        typer.Option(
            "--lens",
            help="Lengths to time on: full, uniform (a quarter to full), uniform:LOW-HIGH, "
            "fixed:N,N,... or histogram:FILE.",
        ),
    ] = "full",
    target: TargetOptions,
    devices: DeviceOptions,
    search: SearchOptions,
    database: OwnDatabaseOption = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare/--no-compare",
            help="End with the comparison; without it where --tracker lends the devices.",
        ),
    ] = True,
    plan: Annotated[Path | None, typer.Option("--plan", hidden=True)] = None,
) -> None:
    """Search for fast kernels and keep the best, verified, in the database."""
    if plan is not None:
        raise moved("tune --plan", "plan run", str(plan), database)
    specs, shapes = workload.parse(shape)
    lengths = parse_lengths(lens)
    root = database or work_root()
    ending = ending_of(context)
    with ExitStack() as stack:
        resolved, pool = stack.enter_context(open_devices(target, devices))
        specs = workload.in_dtype_for(specs, resolved.kind)
        from ..devices.opening import local_pool
        from ..search.builders import local_builders
        from ..search.progress import SearchDisplay
        from ..search.state import Limit
        from ..search.tune import log_path, tune_case

        spaces = {each: choose_spaces(search.space, each, shapes, resolved) for each in specs}
        workloads = [(spec, each) for spec in specs for each in shapes]
        cases = {
            Case(spec, each, lengths, search.seed).as_tuned: spaces[spec]
            for spec, each in workloads
        }
        folder = root / str(resolved.key)
        compares = compare and not devices.tracker  # it measures here, not where a tracker's do
        if compares:
            require_comparable(folder)
        warn_of_bad_lines(open_databases(root), resolved)
        builders = None
        for spec in specs:
            for line in tuned_as(spec, shapes):
                console.print(line, soft_wrap=True)
        if len(cases) > 1:  # the processes of one pool and its builders serve all of them
            pool = pool or stack.enter_context(local_pool(resolved))
            builders = stack.enter_context(local_builders())
        for case, of_case in cases.items():
            log = log_path(case, resolved.key, root)
            ending.advice = f"run the same command again and the search goes on from {log}"
            ending.kept = partial(_kept_since, date_now(), case, resolved.key, root)
            with (
                SearchDisplay(console, case.on(resolved.key)) as display,
                ending.patient() as wish,
            ):
                result = tune_case(
                    case,
                    resolved,
                    of_case,
                    Limit(search.trials, search.seconds),
                    root,
                    search.keep,
                    display.update,
                    pool,
                    builders,
                    wish,
                )
            _print_kept(result, root)
            ending.kept = str
            if wish.is_made:
                return  # to where the process ends
    if not compares:
        if compare:
            again = _compare_commands(specs, shapes, lens, resolved)
            console.print(
                "not compared, which is done where the device is, once the records are there: "
                f"{again}",
                soft_wrap=True,
            )
        return
    from ..comparing.comparer import bench_of
    from ..comparing.report import TORCH_HINT

    if bench_of(resolved.kind).needs_torch and not find_spec("torch"):
        console.print(TORCH_HINT, soft_wrap=True)
    else:
        again = _compare_commands(specs, shapes, lens, resolved, root)
        ending.advice = f"what was found is kept; run: {again}"
        compare_all(workloads, resolved, [lens], open_databases(root), Tier.EXACT, folder)


def _compare_commands(
    specs: Sequence[PrefillSpec],
    shapes: Sequence[PrefillShape],
    lens: str,
    target: ResolvedTarget,
    root: Path | None = None,
) -> str:
    """One line of shell."""
    from ..backends.commands import command

    more = f"--lens {shlex.quote(lens)}"
    commands = (
        command("compare", target, spec, *shapes, database=root, more=more) for spec in specs
    )
    return " && ".join(commands)


def _kept_since(date: str, case: Case, key: TargetKey, root: Path) -> str:
    """How many records of a case a database has been given; empty if none."""
    kept = [
        each
        for each in RecordStore.open(root, key).entries
        if (each.provenance.spec, each.provenance.shape) == (str(case.spec), str(case.shape))
        and moment(each.provenance.date) >= moment(date)
    ]
    return _kept(len(kept), root) if kept else ""


def _kept(records: int, root: Path) -> str:
    return f"{count(records, 'verified record')} kept in {root}"


def _print_kept(result: TuneResult, root: Path) -> None:
    state = result.state
    failed = ", ".join(f"{number} {kind}" for kind, number in sorted(state.failures.items()))
    pace = state.trials / max(state.elapsed, 1e-9) * 60
    console.print(
        f"{count(state.trials, 'trial')} in {format_duration(state.elapsed)} "
        f"({pace:.0f} a minute; failed: {failed or 'none'}); {_kept(len(result.kept), root)}",
        soft_wrap=True,
    )
    if state.faults:
        faults = ", ".join(f"{number} {kind}" for kind, number in sorted(state.faults.items()))
        console.print(f"faults of devices and builders, survived: {faults}", soft_wrap=True)
    for note in state.notes:
        console.print(note, soft_wrap=True)
    if state.shortfall and not result.interrupted:
        console.print(
            f"{state.shortfall}: give --budget {_enough(state)} for a search", soft_wrap=True
        )
    for entry in result.kept:
        provenance = entry.provenance
        parameters = ", ".join(f"{name}={value}" for name, value in provenance.variant.items())
        console.print(
            f"  {entry.record_id}  {provenance.median_secs * 1e3:.3f} ms  error "
            f"{provenance.max_abs_error:.1e}  {provenance.space}  {parameters}",
            soft_wrap=True,
        )


def _enough(state: SearchState) -> str:
    """A budget with time for some candidates where one alone exceeded it."""
    return f"{10 * math.ceil(state.elapsed / 5)}s"
