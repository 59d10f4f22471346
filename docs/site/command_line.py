"""A Sphinx extension: behind the text of reference/command-line.md comes what commands take.

It is read from the commands themselves, as `--help` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer

from prefilltune.tuning.cli import app as commands

PAGE = "reference/command-line"
#: Every command takes it.
HELP = "--help"


def setup(app: Any) -> dict[str, bool]:
    """What Sphinx calls."""
    app.connect("source-read", _append)
    return {"parallel_read_safe": True}


def _append(_: Any, page: str, source: list[str]) -> None:
    if page == PAGE:
        source[0] += "\n".join(_markdown(typer.main.get_command(commands), "prefilltune", None))


def _markdown(command: Any, name: str, parent: Any) -> Iterator[str]:
    """A section on a command and one for each below it, as MyST takes it."""
    context = command.make_context(name, [], parent, resilient_parsing=True)
    command = context.command  # itself, where it is imported when it is run
    path, usage = context.command_path, " ".join(command.collect_usage_pieces(context))
    level = 2 if parent is None else len(path.split())
    yield f"\n{'#' * level} {path}\n\n```text\n{path} {usage}\n```\n"
    yield f"{_marked(command.help)}\n\n```{{program}} {path}\n```\n"
    for parameter in command.params:
        if (said := parameter.get_help_record(context)) and HELP not in said[0]:
            option, meaning = said
            yield f"```{{option}} {option}\n{_marked(meaning)}\n```\n"
    for below in getattr(command, "commands", {}).values():
        if not below.hidden:
            yield from _markdown(below, below.name, context)


def _marked(text: str) -> str:
    """Options in a text as code, where they are not."""
    return re.sub(r"(`[^`]*`)|--[a-z-]+", lambda found: found[1] or f"`{found[0]}`", text)
