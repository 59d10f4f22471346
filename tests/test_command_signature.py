"""Commands whose options are grouped, and answers that are printed as text or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from rich.table import Table
from typer.testing import CliRunner

from prefilltune.tuning.cli.db.answer import Answer, answering
from prefilltune.tuning.cli.signature import ungrouped
from prefilltune.tuning.errors import NothingFoundError


@dataclass(frozen=True)
class Size:
    """A group of options."""

    width: Annotated[int, typer.Option("--width", help="Of it.")] = 2
    names: Annotated[list[str] | None, typer.Option("--name")] = None


@dataclass(frozen=True)
class Box:
    """A group with a group in it."""

    size: Size
    lid: Annotated[bool, typer.Option("--lid")] = False


def _app(command) -> typer.Typer:
    app = typer.Typer()
    app.command()(ungrouped(command))
    return app


def test_the_fields_of_a_group_are_options() -> None:
    taken: list[object] = []

    def take(
        file: Annotated[str, typer.Argument()], *, unit: str = "mm", size: Size, last: bool = False
    ) -> None:
        """Takes it."""
        taken.append((file, unit, size, last))

    app = _app(take)
    for arguments in (["a"], ["a", "--width", "5", "--name", "x", "--name", "y", "--last"]):
        assert CliRunner().invoke(app, arguments).exit_code == 0
    assert taken == [("a", "mm", Size(), False), ("a", "mm", Size(5, ["x", "y"]), True)]
    said = CliRunner().invoke(app, ["--help"]).output
    assert "Takes it." in said
    assert said.index("--unit") < said.index("--width") < said.index("--last")
    assert CliRunner().invoke(app, ["a", "--width", "wide"]).exit_code == 2


def test_a_group_may_hold_a_group() -> None:
    taken: list[Box] = []

    def take(box: Box) -> None:
        taken.append(box)

    app = _app(take)
    assert CliRunner().invoke(app, ["--width", "5", "--lid"]).exit_code == 0
    assert taken == [Box(Size(5), lid=True)]


def _two_parts(size: Size) -> Iterator[Answer]:
    table = Table("column", title="a table")
    table.add_row("\x1b[2Jcell" if size.width == 1 else "cell")
    yield Answer({"first": size.width}, ["a \x1b[31mline", table, Table(title="an empty table")])
    if size.width == 3:
        raise NothingFoundError("halfway")
    yield Answer({"second": [size.names]}, ["the last line"], is_bad=size.width == 4)


@pytest.mark.parametrize(("width", "code"), [(2, 0), (4, 1)])
def test_an_answer_is_lines_and_tables_or_one_json_document(width: int, code: int) -> None:
    app = _app(answering(_two_parts))
    done = CliRunner().invoke(app, ["--width", str(width)])
    assert done.exit_code == code
    said = done.output.splitlines()
    assert (said[0], said[-2:]) == ("a \ufffd[31mline", ["an empty table", "the last line"])
    assert "cell" in done.output
    done = CliRunner().invoke(app, ["--width", str(width), "--name", "x", "--json"])
    assert done.exit_code == code
    assert json.loads(done.output) == {"first": width, "second": [["x"]]}


def test_text_is_printed_as_it_is_known_and_json_only_as_a_whole() -> None:
    app = _app(answering(_two_parts))
    done = CliRunner().invoke(app, ["--width", "3"])
    assert isinstance(done.exception, NothingFoundError)
    assert "a table" in done.output
    done = CliRunner().invoke(app, ["--width", "3", "--json"])
    assert isinstance(done.exception, NothingFoundError)
    assert done.output == ""
