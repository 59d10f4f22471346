"""The databases of a command, and what they hold for a target."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...database import NoRecordError, RecordStore, TargetKey, committed_root, target_keys
from ...workloads import PrefillShape, PrefillSpec

if TYPE_CHECKING:
    from ..target import ResolvedTarget

SEE_NEAR = ", or name a --shape to see what is near"


def work_root() -> Path:
    """Where records go when nothing is said: beside the committed ones in a checkout.

    An installed package must not write into itself; there it is a folder of the working directory.
    """
    package = committed_root().parent
    if (package.parent / "pyproject.toml").is_file():
        return package / "work"
    return Path("prefilltune-work")


def warn_of_bad_lines(target: ResolvedTarget, root: Path) -> None:
    """Say which lines of the databases were skipped: a record is never dropped silently."""
    for store in _stores(target, root):
        for problem in store.problems:
            where = store.folder / problem.file
            print(
                f"prefilltune: {where}:{problem.line}: skipped: {problem.reason}", file=sys.stderr
            )


def tuned_shapes(spec: PrefillSpec, target: ResolvedTarget, root: Path) -> list[PrefillShape]:
    """Every shape of ``spec`` that has a record for exactly this target."""
    return [shape for each, shape in _recorded(target, root) if each == spec]


def tuned_workloads(
    target: ResolvedTarget, root: Path, dtype: str, shapes: Sequence[PrefillShape]
) -> list[tuple[PrefillSpec, PrefillShape]]:
    """Every workload that has a record, of the given dtype and shapes if any are given."""
    found = [
        (spec, shape)
        for spec, shape in _recorded(target, root)
        if dtype in ("", spec.dtype) and (not shapes or shape in shapes)
    ]
    if not found:
        raise NoRecordError(
            f"no database has a record for {target.key} that the options leave; tune first "
            "(prefilltune tune --model NAME), or name a workload with --model or --heads"
        )
    return found


def nothing_tuned(
    spec: PrefillSpec, target: ResolvedTarget, root: Path, or_else: str = ""
) -> NoRecordError:
    return NoRecordError(
        f"no record for {spec} on {target.key} in {root} or among the committed ones; tune it "
        f"first{or_else}"
    )


def _recorded(target: ResolvedTarget, root: Path) -> list[tuple[PrefillSpec, PrefillShape]]:
    """Every workload with a record that serves a target, in a lasting order."""
    texts = {
        (entry.provenance.spec, entry.provenance.shape)
        for store in _stores(target, root)
        for entry in store.entries
    }
    found = [(PrefillSpec.parse(spec), PrefillShape.parse(shape)) for spec, shape in texts]
    return sorted(found, key=lambda each: (str(each[0]), each[1].batch, each[1].qo_len,
                                           each[1].num_kv))  # fmt: skip


def _stores(target: ResolvedTarget, root: Path) -> list[RecordStore]:
    """The records that serve a target: its own, or its family's for a GPU that is elsewhere."""
    from ..building.apply import database_roots

    return [
        RecordStore.open(each, key, create=True)
        for each in database_roots(root, committed_root())
        for key in ([target.key] if target.is_here else _family(target.key, each))
    ]


def _family(key: TargetKey, root: Path) -> list[TargetKey]:
    keys = target_keys(root) if root.is_dir() else []
    return [each for each in keys if each.family == key.family]
