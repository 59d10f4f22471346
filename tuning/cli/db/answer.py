"""What a command of the database answers, and how it is printed: as text or as JSON."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.table import Table

from ..console import console, print_table
from ..signature import parameters_of, signed
from .text import printable

_AS_JSON = inspect.Parameter(
    "as_json",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[bool, typer.Option("--json", help="One JSON document for machines.")],
)


@dataclass(frozen=True)
class Answer:
    """What a command says, or the part of it that is known so far.

    Parameters
    ----------
    data : Mapping[str, Any]
        For machines; of several parts, the fields of all make one JSON document.
    text : Sequence[str or Table]
        For people: what is printed without --json, top to bottom.
    is_bad : bool
        Whether it names something bad that was found.
    """

    data: Mapping[str, Any]
    text: Sequence[str | Table]
    is_bad: bool = False


def answering(command: Callable[..., Iterator[Answer]]) -> Callable[..., None]:
    """A command with ``--json``, which prints what the given one yields.

    Text is printed part by part, as the next may take minutes. Exit code 1 if a part is bad.
    """

    def run(as_json: bool, **options: Any) -> None:
        data: dict[str, Any] = {}
        is_bad = False
        for part in command(**options):
            data |= part.data
            is_bad |= part.is_bad
            if not as_json:
                for each in part.text:
                    _say(each)
        if as_json:
            print(json.dumps(data, indent=1))
        if is_bad:
            raise typer.Exit(1)

    return signed(command, [*parameters_of(command), _AS_JSON], run)


def _say(text: str | Table) -> None:
    """Print a line or a table; of a table without rows, the title alone."""
    if isinstance(text, Table) and text.row_count:
        print_table(text)
    elif isinstance(text, Table):
        console.print(text.title, soft_wrap=True)
    else:
        console.print(printable(text), soft_wrap=True)
