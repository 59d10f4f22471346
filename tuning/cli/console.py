"""What commands print with."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.status import Status
from rich.table import Table

from ...database.writing import in_words
from ...workloads import PrefilltuneError
from ..tables import fitted

_WIDTH_OF_A_PIPE = 200

# A pipe has no width; rich would fold every cell to fit 80 columns.
_PIPED = (sys.stdout is None or not sys.stdout.isatty()) and "COLUMNS" not in os.environ

# Where a message says what to run: after a colon, or between backticks.
_COMMAND = re.compile(r"(?<=: )prefilltune |(?<=`)prefilltune ")


class _Console(Console):
    """Prints commands so that they can be run where this one was."""

    def print(self, *objects: Any, **options: Any) -> None:
        shown = (as_started(each) if isinstance(each, str) else each for each in objects)
        super().print(*shown, **options)


def as_started(text: str) -> str:
    """Commands of a message under the name by which this program was started.

    In a clone that is ``.venv/bin/prefilltune``, and the name alone would not be found.
    """
    started = Path(sys.argv[0])
    found = shutil.which("prefilltune")
    if started.name != "prefilltune" or not started.is_file():
        return text
    if found is not None and started.samefile(found):
        return text
    return _COMMAND.sub(lambda _: f"{shlex.quote(str(started))} ", text)


console = _Console(markup=False, highlight=False, width=_WIDTH_OF_A_PIPE if _PIPED else None)


def under_way(text: str) -> Status:
    """A context manager that shows on a terminal what takes a while."""
    spinner = "line" if console.options.ascii_only else "dots"
    return console.status(text, spinner=spinner)


def print_table(table: Table) -> None:
    """Print a table so that it can be read on terminals of any width."""
    console.print(fitted(table, console))


def print_code(code: str, language: str) -> None:
    """Print code: in colours on a terminal, and into a pipe as it is.

    Parameters
    ----------
    language : str
        By Pygments' name for it.
    """
    if not console.is_terminal:
        print(code)
        return
    from rich.syntax import Syntax

    # The terminal's own colours: which others can be read there is not known.
    coloured = Syntax("", language, theme="ansi_dark").highlight(code)
    console.print(coloured, soft_wrap=True, end="")


def print_error(error: PrefilltuneError | OSError) -> None:
    """Print an error as one line; what the system says on its own too."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):  # the exit code says it too
            said = as_started(" ".join(_said(error).split()))
            print(f"prefilltune: {said}", file=sys.stderr)


def _said(error: PrefilltuneError | OSError) -> str:
    if isinstance(error, PrefilltuneError):
        return str(error)
    if error.filename is None:
        return error.strerror or str(error)
    path = Path(os.fsdecode(error.filename))
    return f"cannot use {path}: {in_words(path, error, 'correct the path')}"
