"""The wheel carries what it needs: built, installed elsewhere, records and presets found."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel unpacked, made from a copy of the sources."""
    pytest.importorskip("build", reason="needs the extra [dev]")
    work = tmp_path_factory.mktemp("packaging")
    sources = work / "sources"
    sources.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    ignore = shutil.ignore_patterns("__pycache__", "work", "trials", ".lock")
    for name in ("workloads", "tuning", "database", "torch_op", "transformers_attention"):
        shutil.copytree(ROOT / name, sources / name, ignore=ignore)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(work / "dist"), str(sources)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (work / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(work / "site")
    return work / "site"


def test_nothing_lands_outside_the_namespace(installed: Path) -> None:
    top = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert top == {"prefilltune"}
    assert not (installed / "prefilltune" / "__init__.py").exists()


def test_data_is_found_where_it_is_installed(installed: Path, tmp_path: Path) -> None:
    script = """
import prefilltune.workloads, prefilltune.database
from prefilltune.database import committed_root, RecordStore, TargetKey
from prefilltune.tuning.cli.records import work_root
from prefilltune.workloads import preset
assert preset("bge-base").spec().num_qo_heads == 12
keys = [TargetKey.parse(path.name) for path in committed_root().iterdir()]
print(committed_root())
print(sum(len(RecordStore.open(committed_root(), key).entries) for key in keys))
print(work_root())
"""
    script = f"import sys; sys.path.insert(0, {str(installed)!r})\n{script}"
    done = subprocess.run(
        [sys.executable, "-I", "-c", script],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    root, records, work = done.stdout.split()
    assert Path(root) == installed / "prefilltune" / "database" / "records"
    assert int(records) > 0
    assert work == "prefilltune-work"


def test_the_pytorch_operator_does_not_stand_in_for_pytorch(installed: Path) -> None:
    pytest.importorskip("torch", reason="needs the extra [torch]")
    done = subprocess.run(
        [sys.executable, "-c", "import torch, prefilltune.torch as op; print(torch.ones(1), op)"],
        capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(installed)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert str(installed / "prefilltune" / "torch" / "__init__.py") in done.stdout
