"""Dependencies inside tuning/ point down only, and what names a kind of target is known by name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TUNING = ROOT / "tuning"

#: Rooms from the top to the bottom; the modules beside them lie at the very bottom.
ROOMS = (
    "cli",
    "page",
    "deployment",
    "comparing",
    "plans",
    "search",
    "devices",
    "building",
    "backends",
    "measuring",
    "spaces",
    "derivation",
    "pipeline",
    "intrinsics",
)
BOTTOM = ""

#: Doors of the house: what a build and `python -m` import of all that lies inside.
DOORS = {"__init__.py", "__main__.py"}

#: Where every module may name a kind of target.
OF_KINDS = ("tuning/backends/", "tuning/spaces/")

#: Modules that name a kind of target though they are neither backends nor design spaces, and why.
NAMING_A_KIND = {
    "tuning/comparing/comparer.py": "the register of benches by kind",
    "tuning/comparing/cuda_bench.py": "the bench for one kind: PyTorch's name of the device",
    "tuning/comparing/device_facts.py": "part of that bench",
    "tuning/comparing/side_by_side.py": "part of that bench",
    "tuning/deployment/swap.py": "a target that TVM makes its hand-written kernels for",
    "tuning/target.py": "the kind that is meant when none is named",
    "database/plausibility.py": "data of the format: which records hold CPU threads",
    "database/target_key.py": "the kind that computes with float32 whatever tensors hold",
    "workloads/elementary.py": "callers of the exported descriptions may name a kind",
}


def test_a_room_for_every_folder() -> None:
    folders = {path.parent.name for path in TUNING.glob("*/__init__.py")}
    assert folders == set(ROOMS)


def test_contributors_find_the_rooms_in_their_order() -> None:
    rooms = re.findall(r"^\| `tuning/(\w+)/`", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert rooms == list(ROOMS)


def test_imports_point_down() -> None:
    up = [
        f"{path.relative_to(ROOT)}:{line}: {room or 'tuning'} imports {imported}"
        for path in sorted(TUNING.rglob("*.py"))
        if path.relative_to(TUNING).as_posix() not in DOORS
        for room in [_room(path.relative_to(TUNING).parts)]
        for line, imported in _imports(path)
        if _height(imported) < _height(room)
    ]
    assert not up, "\n".join(up)


@pytest.mark.parametrize("package", ["database", "workloads"])
def test_nothing_below_imports_tuning(package: str) -> None:
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert "tuning" not in (node.module or "").split("."), path
            if isinstance(node, ast.Import):
                assert not any("tuning" in each.name for each in node.names), path


def test_a_kind_of_target_is_named_where_one_looks_for_it() -> None:
    naming = {
        name
        for package in ("database", "tuning", "workloads")
        for path in sorted((ROOT / package).rglob("*.py"))
        if not (name := path.relative_to(ROOT).as_posix()).startswith(OF_KINDS)
        and _names_a_kind(path)
    }
    assert naming == set(NAMING_A_KIND)


def _names_a_kind(path: Path) -> bool:
    return any(
        isinstance(node, ast.Constant) and node.value in ("cuda", "llvm")
        for node in ast.walk(ast.parse(path.read_text()))
    )


def _room(parts: tuple[str, ...]) -> str:
    return parts[0] if len(parts) > 1 else BOTTOM


def _height(room: str) -> int:
    """0 for the top."""
    return ROOMS.index(room) if room in ROOMS else len(ROOMS)


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and room of what a module of tuning imports of tuning, wherever in it that stands."""
    package = ("tuning", *path.relative_to(TUNING).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom):
            continue
        assert "tuning" not in (node.module or "").split("."), f"{path}: import relatively"
        if not node.level:
            continue
        base = (*package[: len(package) - node.level + 1], *(node.module or "").split("."))
        base = tuple(each for each in base if each)
        if base == ("tuning",):  # from .. import room
            yield from ((node.lineno, each.name) for each in node.names)
        elif base[:1] == ("tuning",):
            yield node.lineno, base[1]
