"""What `--help` and completion have to say comes without what the commands import."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from typer.main import get_command

from prefilltune.tuning.cli import app

_HEAVY = {"altair", "jinja2", "ml_dtypes", "numpy", "torch", "tvm", "tvm_ffi", "vl_convert"}
_SCRIPT = """
import sys
from prefilltune.tuning.cli import main
sys.argv[0] = "prefilltune"
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""


def _said(*arguments: str, **environment: str) -> str:
    """What a process prints, which must have imported none of what is heavy."""
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *arguments],
        capture_output=True, text=True, check=True, env={**os.environ, **environment},
    )  # fmt: skip
    imported = set(done.stderr.split())
    assert "prefilltune.tuning.cli.commands" in imported
    assert not _HEAVY & imported
    return done.stdout


def test_help_comes_at_once() -> None:
    said = _said("--help")
    assert all(each.name in said for each in get_command(app).commands.values() if not each.hidden)


def test_versions_come_at_once() -> None:
    said = _said("--version")
    assert said.startswith("prefilltune ")
    assert ", apache-tvm 0.27." in said


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("comp", ["compare"]),
        ("db re", ["repair", "remove"]),
        ("tune --bud", ["--budget"]),
        ("worker --adv", ["--advertise"]),
    ],
)
def test_completion_comes_at_once(typed: str, completed: list[str]) -> None:
    words = f"prefilltune {typed}"
    said = _said(
        _PREFILLTUNE_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(words.count(" "))
    )
    assert said.split() == completed


def test_a_command_is_listed_as_it_says_itself() -> None:
    for name, command in get_command(app).commands.items():
        itself = command.loaded
        assert (itself.name, command.hidden) == (name, itself.name == "status")
        assert " ".join(itself.help.partition("\n\n")[0].split()) == command.help
