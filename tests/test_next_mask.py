"""The next mask or score is an edit in workloads/ alone: those that docs/how-to shows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("add-a-mask", "add-a-score")
DIFFS = [
    diff
    for page in PAGES
    for diff in re.findall(
        r"^```diff\n(.*?)^```", (ROOT / f"docs/how-to/{page}.md").read_text(), re.M | re.S
    )
]

#: What each of them is called: the mask, then the score.
NAMES = ("prefix", "softsign")


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages, of which workloads/ is edited."""
    folder = tmp_path_factory.mktemp("edited")
    shutil.copytree(ROOT / "workloads", folder / "workloads")
    for diff in DIFFS:
        assert set(re.findall(r"^[-+]{3} [ab]/(\w+)/", diff, re.MULTILINE)) == {"workloads"}
        subprocess.run(["git", "apply", "-C1", "-"], cwd=folder, input=diff, text=True, check=True)
    package = folder / "prefilltune"
    package.mkdir()
    (package / "workloads").symlink_to(folder / "workloads")
    for name in ("tuning", "database"):
        (package / name).symlink_to(ROOT / name)
    return folder


def run(edited: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(edited), str(ROOT / "tests")))}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_pages_show_a_mask_and_a_score() -> None:
    assert [name in diff for name, diff in zip(NAMES, DIFFS, strict=True)] == [True, True]


def test_every_description_computes_both(edited: Path) -> None:
    run(edited, str(ROOT / "tests/next_mask_checks.py"), "cpu")


@pytest.mark.slow
def test_both_compile_for_cuda(edited: Path) -> None:
    if find_spec("cuda") is None:
        pytest.skip("needs the extra [cuda]")
    run(edited, str(ROOT / "tests/next_mask_checks.py"), "cuda")


def test_each_has_an_option(edited: Path) -> None:
    said = run(edited, "-m", "prefilltune.tuning", "tune", "--help")
    assert [f"--{name}" in said for name in NAMES] == [True, True]
