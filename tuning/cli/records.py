"""The databases of a command, and what they hold for a target."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...database import Finder, NoRecordError, TargetKey, committed_root
from ...workloads import PrefillShape, PrefillSpec

if TYPE_CHECKING:
    from ..target import ResolvedTarget


def work_root() -> Path:
    """Where records go when nothing is said: beside the committed ones in a checkout.

    An installed package must not write into itself; there it is a folder of the working directory.
    """
    package = committed_root().parent
    if (package.parent / "pyproject.toml").is_file():
        return package / "work"
    return Path("prefilltune-work")


def open_databases(root: Path) -> Finder:
    """The user's database before the committed records; each folder of them is read once."""
    committed = committed_root()
    return Finder([root] if root.resolve() == committed.resolve() else [root, committed])


def warn_of_bad_lines(databases: Finder, target: ResolvedTarget) -> None:
    """Say which lines of the databases were skipped: a record is never dropped silently."""
    for key in _keys(databases, target):
        for path, line in databases.bad_lines(key):
            print(f"prefilltune: {path}:{line.line}: skipped: {line.reason}", file=sys.stderr)


def tuned_shapes(
    databases: Finder, target: ResolvedTarget, spec: PrefillSpec, usual: list[PrefillShape]
) -> list[PrefillShape]:
    """Every shape of ``spec`` that has a record which serves the target, else the usual ones.

    Raises
    ------
    NoRecordError
        If there are none of either.
    """
    shapes = [shape for each, shape in _recorded(databases, target) if each == spec]
    if not shapes and not usual:
        raise nothing_tuned(databases, target, spec, ", or name a --shape to see what is near")
    return shapes or usual


def tuned_workloads(
    databases: Finder, target: ResolvedTarget, dtype: str, shapes: Sequence[PrefillShape]
) -> list[tuple[PrefillSpec, PrefillShape]]:
    """Every workload that has a record, of the given dtype and shapes if any are given."""
    found = [
        (spec, shape)
        for spec, shape in _recorded(databases, target)
        if dtype in ("", spec.dtype) and (not shapes or shape in shapes)
    ]
    if not found:
        raise NoRecordError(
            f"no database has a record for {target.key} that the options leave; tune first "
            "(prefilltune tune --model NAME), or name a workload with --model or --heads"
        )
    return found


def nothing_tuned(
    databases: Finder, target: ResolvedTarget, spec: PrefillSpec, or_else: str = ""
) -> NoRecordError:
    return NoRecordError(
        f"no record for {spec} on {target.key} in {databases.roots[0]} or among the committed "
        f"ones; tune it first{or_else}"
    )


def _recorded(databases: Finder, target: ResolvedTarget) -> list[tuple[PrefillSpec, PrefillShape]]:
    """Every workload with a record that serves a target, in a lasting order."""
    texts = {each for key in _keys(databases, target) for each in databases.workloads(key)}
    found = [(PrefillSpec.parse(spec), PrefillShape.parse(shape)) for spec, shape in texts]
    return sorted(found, key=lambda each: (str(each[0]), each[1].batch, each[1].qo_len,
                                           each[1].num_kv))  # fmt: skip


def _keys(databases: Finder, target: ResolvedTarget) -> list[TargetKey]:
    """Whose records serve a target: its own, and its family's for a GPU that is elsewhere."""
    return [target.key, *(() if target.is_here else databases.family(target.key))]
