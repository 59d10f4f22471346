"""``prefilltune db merge-driver | install-merge-driver``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from ....database import install_driver, merge_versions
from ....database.writing import write_file
from .. import __name__ as command_line
from .answer import Answer


def merge_driver(
    base: Annotated[Path, typer.Argument(help="%O")],
    ours: Annotated[Path, typer.Argument(help="%A; takes the result.")],
    theirs: Annotated[Path, typer.Argument(help="%B")],
    path: Annotated[str, typer.Argument(help="%P")],
) -> None:
    """Called by git; `install-merge-driver` tells it to."""
    merged = merge_versions(path, base.read_bytes(), ours.read_bytes(), theirs.read_bytes())
    write_file(ours, merged)


def install_merge_driver() -> Iterator[Answer]:
    """Let git merge the records of two branches in the current repository."""
    installed = install_driver(f"-m {command_line} db merge-driver %O %A %B %P")
    yield Answer(
        {"settings": dict(installed.settings), "gitattributes": [*installed.attributes]},
        [
            *(f"git config {name} '{value}'" for name, value in installed.settings.items()),
            "done; .gitattributes needs these lines, with the path of your database:",
            *installed.attributes,
        ],
    )
