"""Commands under the names that they had before: each says what its name is now."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InvalidOptionError
from .options import OwnDatabaseOption


def status(plan: Annotated[str, typer.Argument()] = "", database: OwnDatabaseOption = None) -> None:
    """Moved to `prefilltune plan status`."""
    raise moved("status", "plan status", plan, database)


def moved(old: str, new: str, plan: str, database: Path | None) -> InvalidOptionError:
    """The error that names the new command, ready to be run."""
    arguments = [plan] if plan else []
    if database is not None:
        arguments += ["--database", str(database)]
    command = " ".join(["prefilltune", new, *map(shlex.quote, arguments)])
    return InvalidOptionError(f"`{old}` is now `{new}`; run: {command}")
