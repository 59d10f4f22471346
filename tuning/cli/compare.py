"""``prefilltune compare`` and ``prefilltune report``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...database import Finder, StaleRecordError, Tier
from ...workloads import Case, PrefillShape, PrefillSpec, parse_lengths
from ..backends import USUAL_KIND
from ..errors import KernelCheckError, NothingFoundError, WorkerFailedError
from .console import console, print_error
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
from .records import (
    SEE_NEAR,
    nothing_tuned,
    open_databases,
    tuned_shapes,
    tuned_workloads,
    warn_of_bad_lines,
    work_root,
)
from .targets import prepare

if TYPE_CHECKING:
    from ..comparing.comparison import Comparison
    from ..target import ResolvedTarget

_COMPARISON_FILE = "comparison.json"
_CHART_FILE = "comparison.png"
_REPORT_FILE = "report.md"


def compare(
    target: TargetOption = USUAL_KIND,
    model: ModelOption = "",
    heads: HeadsOption = "",
    mask_mode: MaskOption = "padded",
    dtype: DtypeOption = "",
    arch: ArchOption = None,
    shape: ShapeOption = None,
    lens: Annotated[
        list[str] | None,
        typer.Option("--lens", help="Repeat for more; full and uniform if absent."),
    ] = None,
    accept: Annotated[
        str, typer.Option("--accept", help="Furthest record to take: exact, family, other-target.")
    ] = "exact",
    threads: ThreadsOption = None,
    database: DatabaseOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="Folder for comparison.json and the chart.")
    ] = None,
) -> None:
    """Measure tuned kernels side by side with TVM's own, the stock rules' and PyTorch's.

    Without --model and --heads: every workload that has a record for the target, or those of them
    that --dtype and --shape leave.
    """
    wanted = None
    if model or heads:
        wanted = workload_of(model, heads, mask_mode, dtype, shape, any_tuned=True)
    sizes = [PrefillShape.parse(text) for text in shape or ()]
    tier = tier_of(accept)
    chosen = lens or ["full", "uniform"]
    for text in chosen:
        parse_lengths(text)
    resolved = prepare(target, threads, arch, runs=True)
    root = database or work_root()
    databases = open_databases(root)
    warn_of_bad_lines(databases, resolved)
    if wanted is None:
        workloads = tuned_workloads(databases, resolved, dtype, sizes)
    else:
        spec, shapes = wanted
        spec = spec if dtype else in_usual_dtype(spec, resolved.kind)
        tuned = [] if shape else tuned_shapes(databases, resolved, spec)
        workloads = [(spec, each) for each in tuned or shapes]
        if not workloads:
            raise nothing_tuned(databases, resolved, spec, SEE_NEAR)
    compare_all(workloads, resolved, chosen, databases, tier, output or root / str(resolved.key))


def report(
    target: TargetOption = USUAL_KIND,
    threads: ThreadsOption = None,
    database: DatabaseOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", help="Folder for the page; beside the records if absent."),
    ] = None,
) -> None:
    """Write the page and the chart of what `compare` has measured.

    --target may also be the name of a folder of records, such as cuda-sm_90a-h100: a page needs
    no GPU.
    """
    from ..comparing.chart import draw_chart
    from ..comparing.comparison import read_comparisons
    from ..comparing.report import markdown

    root = database or work_root()
    folder = root / target
    if not (folder / _COMPARISON_FILE).is_file():
        folder = root / str(prepare(target, threads, compiler=False).key)
    comparisons = read_comparisons(folder / _COMPARISON_FILE)
    if not comparisons:
        raise NothingFoundError(
            f"{folder / _COMPARISON_FILE} has no comparison yet; run: prefilltune compare --target "
            f"{target} --database {root}"
        )
    destination = output or folder
    destination.mkdir(parents=True, exist_ok=True)
    draw_chart(comparisons, destination / _CHART_FILE)
    (destination / _REPORT_FILE).write_text(markdown(comparisons, _CHART_FILE), encoding="utf-8")
    console.print(f"wrote {destination / _REPORT_FILE} and {_CHART_FILE}", soft_wrap=True)


def compare_all(
    workloads: Sequence[tuple[PrefillSpec, PrefillShape]],
    target: ResolvedTarget,
    lens: Sequence[str],
    databases: Finder,
    accept: Tier,
    folder: Path,
) -> None:
    """Measure workloads on length distributions; show, keep and draw what comes of it in a folder.

    Ends with exit code 2 if one could not be compared, once all others are.
    """
    from ..comparing.comparer import Comparer
    from ..comparing.comparison import write_comparisons
    from ..comparing.report import summary_table, table

    comparisons: list[Comparison] = []
    failures = 0
    with Comparer(target, databases, accept) as comparer:
        for case in (
            Case(spec, shape, parse_lengths(text)) for spec, shape in workloads for text in lens
        ):
            try:
                with console.status(f"measuring {case.on(target.key)}"):
                    found = comparer.compare(case)
            except (KernelCheckError, StaleRecordError, WorkerFailedError) as error:
                print_error(error)  # what was measured before is kept, what comes after too
                failures += 1
                continue
            comparisons.append(found)
            console.print(table(found))
            write_comparisons(folder / _COMPARISON_FILE, [found])
    if len(comparisons) > 1:
        console.print(summary_table(comparisons))
    if comparisons:
        _draw_comparison(comparisons, folder)
    if failures:
        raise typer.Exit(2)


def _draw_comparison(comparisons: Sequence[Comparison], folder: Path) -> None:
    from ..comparing.chart import draw_chart
    from ..comparing.comparison import read_comparisons
    from ..comparing.report import TORCH_HINT
    from ..errors import EnvironmentMismatchError

    written = [_COMPARISON_FILE]
    try:
        draw_chart(read_comparisons(folder / _COMPARISON_FILE), folder / _CHART_FILE)
        written.append(_CHART_FILE)
    except EnvironmentMismatchError as error:
        console.print(str(error), soft_wrap=True)
    if not any(each.peers for each in comparisons):
        console.print(TORCH_HINT, soft_wrap=True)
    console.print(f"wrote {' and '.join(written)} in {folder}", soft_wrap=True)
