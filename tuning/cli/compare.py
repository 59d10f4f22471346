"""``prefilltune compare``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...database import Finder, Match, NoRecordError, StaleRecordError, Tier
from ...database.writing import require_replaceable
from ...workloads import Case, InvalidLengthsError, PrefillShape, PrefillSpec, parse_lengths
from ..errors import KernelCheckError, WorkerFailedError
from .console import console, print_error, print_table, under_way
from .ending import ending_of
from .options import (
    NEAREST,
    AcceptOption,
    AgainstOption,
    DatabaseOption,
    LensOption,
    ShapeOption,
    TargetOptions,
    WorkloadOptions,
    check_accept,
    checked_lens,
    parse_shapes,
    tier_of,
)
from .records import (
    open_databases,
    tuned_shapes,
    tuned_workloads,
    warn_of_bad_lines,
    work_root,
)
from .targets import prepare

if TYPE_CHECKING:
    from ..comparing.changes import Change
    from ..comparing.comparison import Comparison
    from ..target import ResolvedTarget

# What hinders one case says nothing of the others.
_OF_ONE_CASE = (
    InvalidLengthsError,
    KernelCheckError,
    NoRecordError,
    StaleRecordError,
    WorkerFailedError,
)

COMPARISON_FILE = "comparison.json"
CHART_FILE = "comparison.png"


@dataclass(frozen=True)
class _Earlier:
    """Cases as a revision of git holds them."""

    revision: str
    cases: Sequence[Comparison]


def compare(
    *,
    context: typer.Context,
    workload: WorkloadOptions,
    shape: ShapeOption = None,
    lens: LensOption = None,
    target: TargetOptions,
    accept: AcceptOption = NEAREST,
    database: DatabaseOption = None,
    against: AgainstOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            help="Folder for comparison.json and the chart; the target's of the --database when "
            "absent.",
        ),
    ] = None,
) -> None:
    """Measure tuned kernels side by side with TVM's own, the stock rules' and PyTorch's.

    Without --model and --heads: every workload that has a record for the target,
    or those of them that --dtype and --shape leave.

    With --against the exit code is 1 if a case takes longer than it did there, by
    more than the noise of both measurements.
    """
    wanted = workload.parse_if_given(shape)
    given = parse_shapes(shape)
    check_accept(accept)
    chosen = checked_lens(lens)
    resolved = prepare(target, runs=True)
    tier, nearest = tier_of(accept, resolved), accept == NEAREST
    root = database or work_root()
    databases = open_databases(root)
    warn_of_bad_lines(databases, resolved, tier, nearest=nearest)
    if wanted is None:
        workloads = tuned_workloads(
            databases, resolved, workload.dtype, given, tier, nearest=nearest
        )
    else:
        specs, usual = wanted
        workloads = [
            (spec, each)
            for spec in workload.in_dtype_for(specs, resolved.kind)
            for each in given
            or tuned_shapes(databases, resolved, spec, usual, tier, nearest=nearest)
        ]
    folder = output or root / str(resolved.key)
    before = None
    if against:
        specs = wanted and workload.in_dtype_for(wanted[0], resolved.kind)
        before = _Earlier(
            against,
            [
                each
                for each in _earlier(against, databases, resolved)
                if _is_asked(each, specs, workload.dtype, given, chosen)
            ],
        )
    ending_of(context).advice = (
        f"what was compared is in {folder / COMPARISON_FILE}; run the same command again, with "
        "--shape or --lens for what is left"
    )
    compare_all(workloads, resolved, chosen, databases, tier, folder, before)


def compare_all(
    workloads: Sequence[tuple[PrefillSpec, PrefillShape]],
    target: ResolvedTarget,
    lens: Sequence[str],
    databases: Finder,
    accept: Tier,
    folder: Path,
    before: _Earlier | None = None,
) -> None:
    """Measure workloads on length distributions; show, keep and draw what comes of it in a folder.

    Ends with exit code 2 if one could not be compared, once all others are; with 1 if one is worse
    than ``before``.
    """
    from ..backends.commands import stand_ins, windows_that_hide_nothing
    from ..comparing.comparer import Comparer
    from ..comparing.comparison import write_comparisons
    from ..comparing.report import summary_table, table

    require_comparable(folder)
    comparisons: list[Comparison] = []
    found_for: dict[PrefillSpec, dict[PrefillShape, Match]] = {}
    failures = 0
    with Comparer(target, databases, accept) as comparer:
        for spec, shape in workloads:
            for case in (Case(spec, shape, parse_lengths(text)) for text in lens):
                try:
                    with under_way(f"measuring {case.on(target.key)}"):
                        found = comparer.compare(case)
                except _OF_ONE_CASE as error:
                    print_error(error)  # what was measured before is kept, what comes after too
                    failures += 1
                    if isinstance(error, NoRecordError):  # which other lengths have not either
                        break
                    continue
                comparisons.append(found)
                print_table(table(found))
                found_for.setdefault(spec, {})[shape] = comparer.find(case)
                write_comparisons(folder / COMPARISON_FILE, [found])
    if len(comparisons) > 1:
        print_table(summary_table(comparisons))
    for spec, matches in found_for.items():
        for line in (
            *windows_that_hide_nothing(matches, spec),
            *stand_ins(matches, target, spec, databases.roots[0]),
        ):
            console.print(line, soft_wrap=True)
    if comparisons:
        _draw_comparison(comparisons, folder)
    worse = before is not None and _is_worse(before, comparisons)
    if failures:
        raise typer.Exit(2)
    if worse:
        raise typer.Exit(1)


def _earlier(revision: str, databases: Finder, target: ResolvedTarget) -> list[Comparison]:
    from ..comparing.comparison import readable
    from ..comparing.revisions import earlier

    folders = (root / str(target.key) for root in databases.roots)
    return readable(earlier(revision, [folder / COMPARISON_FILE for folder in folders]))


def _is_asked(
    case: Comparison,
    specs: Sequence[PrefillSpec] | None,
    dtype: str,
    shapes: Sequence[PrefillShape],
    lens: Sequence[str],
) -> bool:
    """Whether a case is one of those that the options name."""
    spec, shape = PrefillSpec.parse(case.spec), PrefillShape.parse(case.shape)
    return (
        (dtype in ("", spec.dtype) if specs is None else spec in specs)
        and (not shapes or shape in shapes)
        and case.lens in {parse_lengths(text).text for text in lens}
    )


def _is_worse(before: _Earlier, comparisons: Sequence[Comparison]) -> bool:
    """Show what changed; whether something takes longer."""
    from ..comparing.changes import WORSE, changes

    devices = {each.device for each in comparisons}
    found = changes([each for each in before.cases if each.device in devices], comparisons)
    print_changes(found, before.revision)
    return any(each.kind == WORSE for each in found)


def print_changes(found: Sequence[Change], revision: str) -> None:
    """What changed since a revision."""
    from ..comparing.changes import change_table, counted

    table = change_table(found)
    console.print(f"against {revision}: {counted(found)}", soft_wrap=True)
    if table.row_count:
        print_table(table)


def require_comparable(folder: Path) -> None:
    """Refuse a folder that takes no comparison, before any is measured.

    Raises
    ------
    NotWritableError
        If it takes none.
    InvalidComparisonError
        If it holds a comparison that new cases cannot be added to.
    """
    from ..comparing.comparison import read_comparisons

    read_comparisons(folder / COMPARISON_FILE)
    for name in (COMPARISON_FILE, CHART_FILE):
        require_replaceable(folder / name)


def _draw_comparison(comparisons: Sequence[Comparison], folder: Path) -> None:
    from ..comparing.chart import draw_chart
    from ..comparing.comparison import read_comparisons, readable
    from ..comparing.report import TORCH_HINT
    from ..errors import EnvironmentMismatchError

    written = [COMPARISON_FILE]
    try:
        draw_chart(readable(read_comparisons(folder / COMPARISON_FILE)), folder / CHART_FILE)
        written.append(CHART_FILE)
    except EnvironmentMismatchError as error:
        console.print(str(error), soft_wrap=True)
    if not find_spec("torch"):
        console.print(TORCH_HINT, soft_wrap=True)
    console.print(f"wrote {' and '.join(written)} in {folder}", soft_wrap=True)
