"""The command line: ``prefilltune tune | plan | compare | build | report | presets | db | ...``.

One module for each command or two that belong together; beside them ``options``, ``targets`` and
``records``, which they share.
"""

from __future__ import annotations

import signal
import sys

import typer

from ...workloads import PrefilltuneError
from . import build, compare, db, moved, plan, presets, report, serve, sweep, tune
from .console import print_error
from .output import whole_output
from .signature import ungrouped

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Tune masked batch prefill attention with TVM, keep the records, build and compare.",
)
for _command in (
    tune.tune,
    compare.compare,
    report.report,
    sweep.sweep,
    build.build,
    build.explain,
    presets.presets,
    serve.tracker,
    serve.worker,
):
    app.command()(ungrouped(_command))
app.command(hidden=True)(moved.status)
app.add_typer(plan.app, name="plan")
app.add_typer(db.app, name="db")


def main() -> None:
    """Run the command line; an error of the user's is one line and exit code 2."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with whole_output():
            app()
    except (PrefilltuneError, OSError) as error:
        print_error(error)
        sys.exit(2)
    except KeyboardInterrupt:
        print("prefilltune: interrupted", file=sys.stderr)
        sys.exit(130)
