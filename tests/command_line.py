"""Commands as a user types them, run in the process of the tests, and a database for them."""

from __future__ import annotations

import contextlib
import io
import shlex
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dispatch_fixtures as fixtures
import pytest
import typer
from dispatch_fixtures import LONG, SHORT, SPEC
from test_comparison import CASE

from prefilltune.tuning.cli import app, main
from prefilltune.tuning.comparing.comparison import write_comparisons

COMMANDS: Any = typer.main.get_command(app)
COMMANDS.commands = {name: each.loaded for name, each in COMMANDS.commands.items()}

HEADS = ("--heads", "2/1x16")
THREADS = ("--threads", "1")


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


def said(*arguments: object, **streams: io.TextIOBase) -> Said:
    """Run a command; into a stream ``out`` where one is given."""
    out, err = streams.get("out", io.StringIO()), io.StringIO()
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["prefilltune", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)
    text = out.getvalue() if isinstance(out, io.StringIO) else ""
    return Said(code, text, err.getvalue())


def prepared(root: Path) -> Path:
    """A database of this machine with two records, their sweep and a comparison; its folder."""
    entries = [fixtures.record(SPEC, SHORT), fixtures.record(SPEC, LONG, packed=True)]
    fixtures.database(root, *entries)
    ids = [entry.record_id for entry in entries]
    fixtures.swept(root, SPEC, {"1x16": dict.fromkeys(ids, 1.0), "2x64": dict.fromkeys(ids, 1.0)})
    folder = root / str(fixtures.target().key)
    write_comparisons(folder / "comparison.json", [replace(CASE, target=folder.name)])
    return folder


def parsed(command: str) -> None:
    """Read a command as the command line does, without running it."""
    _, *arguments = shlex.split(command)
    found, context = COMMANDS, None
    while hasattr(found, "commands"):
        context = found.make_context(found.name, [], context, resilient_parsing=True)
        found = found.commands[arguments.pop(0)]
    found.make_context(found.name, arguments, context)
