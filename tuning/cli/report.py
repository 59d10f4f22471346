"""``prefilltune report``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from ...database import Finder, InvalidTargetKeyError, TargetKey
from ...database.writing import write_file
from ..backends import backend_of
from ..backends.commands import advice
from ..errors import NothingFoundError, UnsupportedTargetError
from ..target import ResolvedTarget
from .compare import CHART_FILE, COMPARISON_FILE
from .console import console
from .options import DatabaseOption, TargetOptions
from .records import first_tune, open_databases, work_root
from .targets import prepare

_REPORT_FILE = "report.md"


def report(
    target: TargetOptions,
    database: DatabaseOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", help="Folder for the page; the target's of the --database when absent."
        ),
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
    folder = _folder(target, open_databases(root))
    comparisons = read_comparisons(folder / COMPARISON_FILE)
    destination = output or root / folder.name
    draw_chart(comparisons, destination / CHART_FILE)
    write_file(destination / _REPORT_FILE, markdown(comparisons, CHART_FILE).encode())
    console.print(f"wrote {destination / _REPORT_FILE} and {CHART_FILE}", soft_wrap=True)


def _folder(target: TargetOptions, databases: Finder) -> Path:
    """The folder of the first database that has a comparison for a target.

    Raises
    ------
    NothingFoundError
        If none has.
    """
    from ..comparing.comparison import read_comparisons

    def compared(name: str) -> Iterator[Path]:
        folders = (root / name for root in databases.roots)
        return (each for each in folders if read_comparisons(each / COMPARISON_FILE))

    folder = next(compared(target.target), None)
    if folder is not None:
        return folder
    resolved, is_named = _resolved(target)
    folder = next(compared(str(resolved.key)), None)
    if folder is None:
        root = databases.roots[0]
        compare = advice("compare", resolved, database=root, elsewhere=is_named)
        has_records = bool(databases.workloads(resolved.key))
        raise NothingFoundError(
            f"nothing was compared yet on {resolved.key}, say "
            f"{' and '.join(map(str, databases.roots))}; "
            + (compare if has_records else first_tune(resolved, root, elsewhere=is_named))
        )
    return folder


def _resolved(target: TargetOptions) -> tuple[ResolvedTarget, bool]:
    """What is meant, and whether by the name of a folder of records."""
    try:
        key = TargetKey.parse(target.target)
        backend_of(key.kind)
    except (InvalidTargetKeyError, UnsupportedTargetError):
        return prepare(target, compiler=False), False
    return ResolvedTarget(None, key, 1, is_here=bool(key.device)), True
