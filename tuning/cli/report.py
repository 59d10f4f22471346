"""``prefilltune report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...database.writing import write_file
from ..errors import NothingFoundError
from .compare import CHART_FILE, COMPARISON_FILE
from .console import console
from .options import DatabaseOption, TargetOptions
from .records import work_root
from .targets import prepare

_REPORT_FILE = "report.md"


def report(
    target: TargetOptions,
    database: DatabaseOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", help="Folder for the page; beside the records if absent."),
    ] = None,
) -> None:
    """Write the page and the chart of what `compare` has measured.

    --target may also be the name of a folder of records, such as
    cuda-sm_90a-h100: a page needs no GPU.
    """
    from ..comparing.chart import draw_chart
    from ..comparing.comparison import read_comparisons
    from ..comparing.report import markdown

    root = database or work_root()
    folder = root / target.target
    if not (folder / COMPARISON_FILE).is_file():
        folder = root / str(prepare(target, compiler=False).key)
    comparisons = read_comparisons(folder / COMPARISON_FILE)
    if not comparisons:
        raise NothingFoundError(
            f"{folder / COMPARISON_FILE} has no comparison yet; run: prefilltune compare --target "
            f"{target.target} --database {root}"
        )
    destination = output or folder
    draw_chart(comparisons, destination / CHART_FILE)
    write_file(destination / _REPORT_FILE, markdown(comparisons, CHART_FILE).encode())
    console.print(f"wrote {destination / _REPORT_FILE} and {CHART_FILE}", soft_wrap=True)
