"""All commands, as one application."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ...database.scratch import remove_abandoned, remove_own
from ...database.writing import remove_unfinished
from ...workloads import PrefilltuneError
from ..ending import Ending
from .console import print_error
from .deferred import Deferred
from .output import whole_output

_COMMANDS = (
    Deferred(
        "tune",
        "tune:tune",
        "Search for fast kernels and keep the best, verified, in the database.",
    ),
    Deferred(
        "compare",
        "compare:compare",
        "Measure tuned kernels side by side with TVM's own, the stock rules' and PyTorch's.",
    ),
    Deferred(
        "report",
        "report:report",
        "Write a page of what `compare` has measured: report.html, which needs no network.",
    ),
    Deferred(
        "sweep",
        "sweep:sweep",
        "Time the tuned kernels of a model against one another on many shapes.",
    ),
    Deferred(
        "build",
        "build:build",
        "Build the tuned kernels of a model into one shared library; never tunes.",
    ),
    Deferred(
        "explain",
        "build:explain",
        "Say which tuned kernel serves which shapes of a model, and where it comes from.",
    ),
    Deferred(
        "show",
        "show:show",
        "Print a kernel on its way from the plain description to machine code.",
    ),
    Deferred(
        "presets",
        "presets:presets",
        "List the models whose attentions and usual shapes are known.",
    ),
    Deferred(
        "tracker",
        "serve:tracker",
        "Run TVM's RPC tracker, which workers report to and tuners ask for devices.",
    ),
    Deferred(
        "worker",
        "serve:worker",
        "Lend this machine's devices to tuners: one of TVM's RPC servers for each, kept alive.",
    ),
    Deferred("status", "moved:status", "Moved to `prefilltune plan status`.", hidden=True),
    Deferred(
        "plan",
        "plan:app",
        "Tune many workloads as one job, which can be gone on with.",
    ),
    Deferred(
        "db",
        "db:app",
        "Look into databases of tuning records, verify, repair, merge and move them.",
    ),
)


class _Commands(TyperGroup):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for each in _COMMANDS:
            self.add_command(each)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Tune masked batch prefill attention with TVM, keep the records, build and compare.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata

        from ...database.provenance import own_version

        packages = ("apache-tvm", "apache-tvm-ffi")
        versions = {name: importlib.metadata.version(name) for name in packages}
        versions = {"prefilltune": own_version(), **versions}
        print(", ".join(f"{name} {version}" for name, version in versions.items()))
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
