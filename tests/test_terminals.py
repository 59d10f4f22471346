"""Every command on every kind of terminal: what it says is all there, in characters that it has."""

from __future__ import annotations

import io
import os
import pty
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dispatch_fixtures as fixtures
import pytest
from command_line import COMMANDS as APPLICATION
from command_line import HEADS, THREADS, Said, prepared, said
from rich.console import Console
from rich.table import Table

from prefilltune.database import RecordStore
from prefilltune.tuning.cli import console as console_module
from prefilltune.tuning.tables import fitted

#: Each command with cheap arguments, how it ends, and what it says; costly ones say why they don't.
COMMANDS = {
    "tune": ("tune {heads}", 2, "--shape"),
    "compare": ("compare --heads 2/1x32 {threads} --database {root}", 2, "hkv1_d32"),
    "sweep": ("sweep --heads 2/1x32 {threads} --database {root}", 2, "hkv1_d32"),
    "build": ("build --heads 2/1x32 {threads} --database {root}", 2, "hkv1_d32"),
    "report": ("report --target nothing --database {root}", 2, "nothing"),
    "explain": ("explain {heads} --database {root}", 0, "{id}"),
    "show": ("show {heads} --shape 1x16 --stage tiled --database {root}", 0, "{id}"),
    "presets": ("presets", 0, "xlm-r-large"),
    "tracker": ("tracker --port 0", 2, "--port is 0"),
    "worker": ("worker --tracker 1 --key x", 2, "HOST:PORT"),
    "status": ("status", 2, "plan status"),
    "plan run": ("plan run {root}/none.toml", 2, "none.toml"),
    "plan status": ("plan status none --database {root}", 2, "none"),
    "db list": ("db list --database {root}", 0, "{id}"),
    "db show": ("db show nothing --database {root}", 2, "nothing"),
    "db verify": ("db verify --database {root}", 0, "read 2 records"),
    "db repair": ("db repair --database {root}", 0, "nothing to repair"),
    "db merge": ("db merge {root} {root}", 0, "added 0 records"),
    "db prune": ("db prune --keep 9 --database {root}", 0, "removed 0 records"),
    "db remove": ("db remove 0123 --database {root}", 2, "0123"),
    "db export": ("db export {root}/é.json --database {root}", 0, "wrote 2 records"),
    "db import": ("db import {root}/none.json --database {root}", 2, "none.json"),
    "db diff": ("db diff {root} {empty}", 0, "{id}"),
    "db migrate": ("db migrate {empty} --database {root}", 0, "moved 0 records"),
    "db install-merge-driver": ("db install-merge-driver", 2, "git"),
    "db merge-driver": ("db merge-driver {file} {file} {file} nothing", 2, "nothing"),
}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What commands look into."""
    root, empty = tmp_path_factory.mktemp("database"), tmp_path_factory.mktemp("empty")
    prepared(root)
    (empty / "file").touch()
    record = RecordStore.open(root, fixtures.target().key).entries[0]
    return {
        "heads": shlex.join([*HEADS, *THREADS]),
        "threads": shlex.join(THREADS),
        "root": root,
        "empty": empty,
        "file": empty / "file",
        "id": record.record_id,
    }


class Terminal(io.TextIOWrapper):
    """A stream of an encoding that is a terminal, or no terminal."""

    def __init__(self, encoding: str, *, is_terminal: bool) -> None:
        super().__init__(io.BytesIO(), encoding=encoding)
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal

    def text(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)  # pyright: ignore


def commands(group: Any, above: str = "") -> Iterator[str]:
    """The names of all commands of the application."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{above}{name} ")
        else:
            yield above + name


def test_every_command_is_tried() -> None:
    assert set(commands(APPLICATION)) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_said_on_every_terminal(
    name: str, given: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Narrow, without colour, dumb, ASCII alone, no terminal, and without a home."""
    command, code, words = COMMANDS[name]
    arguments = shlex.split(command.format(**given))
    monkeypatch.chdir(tmp_path)  # which is no repository
    monkeypatch.setenv("HOME", "/proc/nothing")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/proc/nothing")
    for encoding, width, is_terminal, environment in (
        ("utf-8", 20, True, {"TERM": "xterm", "NO_COLOR": "1"}),
        ("ascii", 32, True, {"TERM": "dumb"}),
        ("ascii", 40, True, {"TERM": "xterm"}),
        ("latin-1", 200, False, {}),
    ):
        for options in (arguments, [*arguments, "--help"]):
            out = Terminal(encoding, is_terminal=is_terminal)
            done = _said_on(out, width, environment, monkeypatch, options)
            told = "".join((out.text() + done.err).split())
            assert "Traceback" not in told
            if options[-1] == "--help":
                assert done.code == 0
                continue
            assert done.code == code, done.err
            assert done.err.count("\n") == (1 if code else 0)
            assert "".join(words.format(**given).split()) in told
            assert "…" not in told  # nothing is cut off
            assert "?" not in out.text()


def _said_on(
    out: Terminal,
    width: int,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
) -> Said:
    with monkeypatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        patch.delenv("TERM", raising=False)
        for variable, value in environment.items():
            patch.setenv(variable, value)
        patch.setattr(console_module.console, "_width", width)
        return said(*options, out=out)


def test_rows_of_a_table_that_is_too_wide_are_whole() -> None:
    table = Table("record", "spec", "ms", title="two", caption="below")
    table.add_row("0123456789abcdef", "padded_hq2_hkv1_d16_float32_s0.25", "1.5")
    table.add_row("fedcba9876543210", "padded_hq2_hkv1_d16_float32_s0.25", "2.5")
    for width in range(4, 120):
        console = Console(width=width, file=io.StringIO())
        console.print(fitted(table, console))
        printed = console.file.getvalue()  # pyright: ignore
        assert max(map(len, printed.splitlines())) <= width
        if width < 25:
            assert "fedcba9876543210" in "".join(printed.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        "tune {heads} --shape 1x16 --trials 2 --no-compare --database {out}",
        "build {heads} --database {root} --output {out}",
    ],
    ids=["tune", "build"],
)
def test_a_real_terminal_that_knows_next_to_nothing(
    arguments: str, given: dict[str, object], tmp_path: Path
) -> None:
    """24 columns, ASCII in a C locale, no colour and no home."""
    command = arguments.format(**given, out=tmp_path / "out")
    environment = {
        **{name: value for name, value in os.environ.items() if name != "HOME"},
        "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "COLUMNS": "24",
        "TERM": "vt100", "NO_COLOR": "1", "PYTHONIOENCODING": "ascii",
    }  # fmt: skip
    terminal, stream = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "prefilltune.tuning", *shlex.split(command)],
        stdin=stream, stdout=stream, stderr=stream, env=environment,
    )  # fmt: skip
    os.close(stream)
    shown = b""
    while True:
        try:
            read = os.read(terminal, 1 << 16)
        except OSError:  # of a terminal whose last user is gone
            break
        if not read:
            break
        shown += read
    os.close(terminal)
    assert process.wait() == 0, shown.decode("ascii", "replace")
    text = shown.decode("ascii")
    assert "Traceback" not in text
    # But for the time that is left, and for hiding the cursor and showing it.
    assert "?" not in re.sub(r", \?|\x1b\[\?25", "", text)
