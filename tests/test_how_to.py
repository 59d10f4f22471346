"""The design spaces and the kind of target that docs/how-to adds compute what they should."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("add-a-design-space", "add-a-target-kind")
#: A file's name, and what is in it.
NEW_FILE = re.compile(r"`(tuning/\w+/\w+\.(?:py|h))`:\n\n```\w+\n(.*?)^```", re.M | re.S)


@pytest.mark.slow
def test_what_is_added_is_right(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "tuning", tmp_path / "tuning")
    added = []
    for page in PAGES:
        text = (ROOT / f"docs/how-to/{page}.md").read_text(encoding="utf-8")
        for name, content in NEW_FILE.findall(text):
            assert not (ROOT / name).exists()
            (tmp_path / name).write_text(content, encoding="utf-8")
            added.append(name)
    assert added == [
        "tuning/spaces/llvm_simple.py",
        "tuning/backends/c.py",
        "tuning/backends/c_numbers.h",
        "tuning/spaces/c_tiles.py",
    ]
    package = tmp_path / "prefilltune"
    package.mkdir()
    (package / "tuning").symlink_to(tmp_path / "tuning")
    for name in ("workloads", "database"):
        (package / name).symlink_to(ROOT / name)
    path = os.pathsep.join((str(tmp_path), str(ROOT / "tests")))
    command = [sys.executable, str(ROOT / "tests/how_to_checks.py"), str(tmp_path)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
