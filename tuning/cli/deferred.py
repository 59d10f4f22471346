"""Commands that are imported when they are run, and not where their names alone are asked for.

What `--help` and completion have to say comes at once, whatever the commands import.
"""

from __future__ import annotations

from functools import cached_property
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand

from .signature import ungrouped


class Deferred(TyperCommand):
    """Stands for a command among those of a group.

    Parameters
    ----------
    origin : str
        ``MODULE:NAME`` of a function, or of an application with commands of its own, in this
        package.
    summary : str
        How the command's own help begins.
    """

    def __init__(self, name: str, origin: str, summary: str, *, hidden: bool = False) -> None:
        super().__init__(name, help=summary, hidden=hidden)
        self._origin = origin

    @cached_property
    def loaded(self) -> Any:
        """The command itself."""
        module, _, attribute = self._origin.partition(":")
        found = getattr(import_module(f".{module}", __package__), attribute)
        if isinstance(found, typer.Typer):
            group = typer.main.get_group(found)
            group.name = self.name
            return group
        alone = typer.Typer(add_completion=False)
        alone.command(self.name)(ungrouped(found))
        return typer.main.get_command(alone)

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Of the command itself: whoever runs it, or completes its options, goes on with that."""
        return self.loaded.make_context(*arguments, **options)
