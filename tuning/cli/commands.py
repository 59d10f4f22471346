"""All commands, as one application."""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Annotated

import typer

from ...database.scratch import remove_abandoned, remove_own
from ...database.writing import remove_unfinished
from ...workloads import PrefilltuneError
from ..ending import Ending
from . import build, compare, db, moved, plan, presets, report, serve, show, sweep, tune
from .console import print_error
from .output import whole_output
from .signature import ungrouped

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Tune masked batch prefill attention with TVM, keep the records, build and compare.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        packages = ("prefilltune", "apache-tvm", "apache-tvm-ffi")
        print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages))
        raise typer.Exit


@app.callback()
def _of_all(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Show the versions of prefilltune and of TVM, and exit.",
            callback=_print_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """What every command takes."""


for _command in (
    tune.tune,
    compare.compare,
    report.report,
    sweep.sweep,
    build.build,
    build.explain,
    show.show,
    presets.presets,
    serve.tracker,
    serve.worker,
):
    app.command()(ungrouped(_command))
app.command(hidden=True)(moved.status)
app.add_typer(plan.app, name="plan")
app.add_typer(db.app, name="db")


def run(ending: Ending) -> None:
    """Run the command line; an error of the user's is one line and exit code 2."""
    ending.at_last(remove_own)
    ending.at_last(remove_abandoned)  # by the child processes, which are killed first
    ending.at_last(remove_unfinished)
    try:
        with whole_output():
            app(obj=ending)
    except (PrefilltuneError, OSError) as error:
        print_error(error)
        sys.exit(2)
