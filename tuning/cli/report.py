"""``prefilltune report``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...database import Finder, InvalidTargetKeyError, TargetKey
from ...database.writing import require_replaceable, write_file
from ...workloads import PrefilltuneError
from ..errors import NothingFoundError, UnsupportedTargetError
from ..target import USUAL_KIND, ResolvedTarget
from .compare import CHART_FILE, COMPARISON_FILE, print_changes
from .console import console, under_way
from .options import AgainstOption, DatabaseOption, TargetOptions
from .records import first_tune, open_databases, work_root
from .targets import prepare

if TYPE_CHECKING:
    from ..comparing.changes import Change
    from ..comparing.comparison import Comparison
    from ..page.data import Compared

PAGE_FILE, SUMMARY_FILE = "report.html", "report.md"


def report(
    *,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            help="One target: as other commands take it, or the name of a folder of records, such "
            "as cuda-sm_90a-h100. Every target that was compared, when absent.",
        ),
    ] = None,
    arch: Annotated[
        str | None,
        typer.Option("--arch", help="With --target cuda, such as sm_90a; the GPU's when absent."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", help="CPU threads of a kernel; every usable core when absent."),
    ] = None,
    database: DatabaseOption = None,
    against: AgainstOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            help="Folder for the page; the --database, or with --target its folder there, when "
            "absent.",
        ),
    ] = None,
) -> None:
    """Write a page of what `compare` has measured: report.html, which needs no network.

    Beside it the summary, report.md, and its chart. A page needs no GPU.
    """
    root = database or work_root()
    databases = open_databases(root)
    one = None
    if (target, arch, threads) != (None, None, None):
        one = _compared(TargetOptions(target or USUAL_KIND, arch, threads), databases)
    keys = _keys(databases) if one is None else [one]
    if not keys:
        keys = [_compared(TargetOptions(), databases)]  # which says what to run first
    destination = output or (root if one is None else root / str(one))
    for name in (PAGE_FILE, SUMMARY_FILE, CHART_FILE):
        require_replaceable(destination / name)
    _write(destination, keys, databases, against)
    page = destination / PAGE_FILE
    console.print(
        f"wrote {page}, {SUMMARY_FILE} and {CHART_FILE}; open {page.absolute().as_uri()}",
        soft_wrap=True,
    )


def _write(
    destination: Path, keys: Sequence[TargetKey], databases: Finder, against: str | None
) -> None:
    """The page, the summary and the chart of some targets."""
    from ..comparing.chart import draw_chart
    from ..comparing.summary import markdown
    from ..measuring.tvm_import import import_tvm_without_torch
    from ..page.data import page_data
    from ..page.rendering import render
    from ..page.views import options

    comparisons = [each for key in keys for each in compared(databases, key)]
    changed = _changes(comparisons, keys, databases, against) if against else []
    draw_chart(comparisons, destination / CHART_FILE)
    write_file(destination / SUMMARY_FILE, markdown(comparisons, CHART_FILE).encode())
    with under_way("describing the kernels"):
        import_tvm_without_torch()
        data = page_data([_target(databases, key) for key in keys], changed, against or "")
        page = render(data, options(comparisons))
    write_file(destination / PAGE_FILE, page.encode())


def compared(databases: Finder, key: TargetKey) -> list[Comparison]:
    """The cases of a target; of one that several databases have, that of the first."""
    from ..comparing.comparison import read_comparisons, readable

    cases: dict[tuple[str, ...], Comparison] = {}
    for root in databases.roots:
        for each in readable(read_comparisons(root / str(key) / COMPARISON_FILE)):
            cases.setdefault(each.case, each)
    return list(cases.values())


def _target(databases: Finder, key: TargetKey) -> Compared:
    """What the page shows of a target: without its records where these cannot be read."""
    from ..page.data import Compared

    try:
        databases.workloads(key)
    except PrefilltuneError as error:
        print(f"prefilltune: the page goes without the records of {key}: {error}", file=sys.stderr)
        return Compared(key, compared(databases, key), Finder([]))
    return Compared(key, compared(databases, key), databases)


def _changes(
    comparisons: Sequence[Comparison],
    keys: Sequence[TargetKey],
    databases: Finder,
    revision: str,
) -> list[Change]:
    from ..comparing.changes import changes
    from ..comparing.revisions import earlier

    before = [each for key in keys for each in earlier(revision, _files(databases, key))]
    found = changes(before, comparisons)
    print_changes(found, revision)
    return found


def _files(databases: Finder, key: TargetKey) -> list[Path]:
    return [root / str(key) / COMPARISON_FILE for root in databases.roots]


def _keys(databases: Finder) -> list[TargetKey]:
    """The targets that something was compared on, GPUs first."""
    from ..backends import backend_of

    found = set()
    for root in databases.roots:
        for file in root.glob(f"*/{COMPARISON_FILE}"):
            try:
                key = TargetKey.parse(file.parent.name)
                backend_of(key.kind)
            except (InvalidTargetKeyError, UnsupportedTargetError):  # no folder of a target
                continue
            if compared(databases, key):
                found.add(key)
    return sorted(found, key=lambda key: (backend_of(key.kind).is_cpu, str(key)))


def _compared(target: TargetOptions, databases: Finder) -> TargetKey:
    """The key of a target that some database has a comparison for.

    Raises
    ------
    NothingFoundError
        If none has.
    """
    resolved, is_named = _resolved(target)
    if not compared(databases, resolved.key):
        from ..backends.commands import advice

        root = databases.roots[0]
        compare = advice("compare", resolved, database=root, elsewhere=is_named)
        has_records = bool(databases.workloads(resolved.key))
        raise NothingFoundError(
            f"nothing was compared yet on {resolved.key}, say "
            f"{' and '.join(map(str, databases.roots))}; "
            + (compare if has_records else first_tune(resolved, root, elsewhere=is_named))
        )
    return resolved.key


def _resolved(target: TargetOptions) -> tuple[ResolvedTarget, bool]:
    """What is meant, and whether by the name of a folder of records."""
    from ..backends import backend_of

    try:
        key = TargetKey.parse(target.target)
        backend_of(key.kind)
    except (InvalidTargetKeyError, UnsupportedTargetError):
        return prepare(target, compiler=False), False
    return ResolvedTarget(None, key, 1, is_here=bool(key.device)), True
