"""From a record to a scheduled kernel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...database import Match, StaleRecordError, schedule
from ...workloads import PrefillShape, PrefillSpec, SymbolicShape
from ..pipeline import pipeline
from ..spaces import SPACES
from .describing import describe


def apply_record(match: Match, kind: str, sizes: SymbolicShape | None = None) -> Any:
    """Replay a record on the description that it was tuned on.

    Parameters
    ----------
    match : Match
        Of :func:`~prefilltune.database.lookup`.
    kind : str
        Target kind, such as ``llvm``.
    sizes : SymbolicShape, optional
        The kernel's sizes, in the place of the shape that the record was tuned on.

    Returns
    -------
    tvm.IRModule
        The scheduled kernel ``main(query, key, value, valid_lens, output, lse)``.

    Raises
    ------
    StaleRecordError
        If the record's design space is unknown, its description has changed since, or its trace
        does not replay.
    ValueError
        If ``sizes`` are given and the design space is one whose traces fit one shape alone.
    """
    provenance = match.entry.provenance
    if provenance.space not in SPACES:
        raise StaleRecordError(
            f"{match.entry.place}: record {match.entry.record_id} is of the design space "
            f"{provenance.space!r}, which this version does not have (it has "
            f"{', '.join(sorted(SPACES))}); use the version that made it, or {match.entry.mend}"
        )
    spec, shape = PrefillSpec.parse(provenance.spec), PrefillShape.parse(provenance.shape)
    space, variant = SPACES[provenance.space], provenance.variant
    if sizes is not None and not space.any_shape:
        raise ValueError(f"traces of {space.name} fit the shape alone that they were tuned on")
    description = describe(space.name, spec, shape, variant, kind)
    onto = None if sizes is None else describe(space.name, spec, sizes, variant, kind)
    module = schedule(match.entry, description, onto).mod
    return _mark_scheduled(pipeline(module))


def _mark_scheduled(module: Any) -> Any:
    """So that no later pass takes the kernel for an unscheduled one."""
    import tvm

    return tvm.IRModule({"main": module["main"].with_attr("tirx.is_scheduled", True)})


def database_roots(root: Path, committed: Path) -> Sequence[Path]:
    """Where look-ups search: the user's database first, then the committed records."""
    return (root,) if root.resolve() == committed.resolve() else (root, committed)
