"""What commands print with."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from rich.console import Console
from rich.status import Status
from rich.table import Table

from ...database.writing import in_words
from ...workloads import PrefilltuneError
from ..tables import fitted

_WIDTH_OF_A_PIPE = 200

# A pipe has no width; rich would fold every cell to fit 80 columns.
_PIPED = (sys.stdout is None or not sys.stdout.isatty()) and "COLUMNS" not in os.environ

console = Console(markup=False, highlight=False, width=_WIDTH_OF_A_PIPE if _PIPED else None)


def under_way(text: str) -> Status:
    """A context manager that shows on a terminal what takes a while."""
    spinner = "line" if console.options.ascii_only else "dots"
    return console.status(text, spinner=spinner)


def print_table(table: Table) -> None:
    """Print a table so that it can be read on terminals of any width."""
    console.print(fitted(table, console))


def print_error(error: PrefilltuneError | OSError) -> None:
    """Print an error as one line; what the system says on its own too."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):  # the exit code says it too
            print(f"prefilltune: {' '.join(_said(error).split())}", file=sys.stderr)


def _said(error: PrefilltuneError | OSError) -> str:
    if isinstance(error, PrefilltuneError):
        return str(error)
    if error.filename is None:
        return error.strerror or str(error)
    path = Path(os.fsdecode(error.filename))
    return f"cannot use {path}: {in_words(path, error, 'correct the path')}"
