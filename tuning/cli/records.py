"""The databases of a command, and what they hold for a target."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ...database import (
    DatabaseNotFoundError,
    Finder,
    NoRecordError,
    TargetKey,
    Tier,
    committed_root,
    work_root,
)  # fmt: skip
from ...database.finder import ACCEPTED
from ...workloads import PrefillShape, PrefillSpec, PrefilltuneError

if TYPE_CHECKING:
    from ..target import ResolvedTarget

_Workload = tuple[PrefillSpec, PrefillShape]
_T = TypeVar("_T", PrefillShape, _Workload)

__all__ = [
    "first_tune",
    "nothing_tuned",
    "open_databases",
    "tuned_shapes",
    "tuned_workloads",
    "warn_of_bad_lines",
    "work_root",
]


def open_databases(root: Path) -> Finder:
    """The user's database before the committed records; each folder of them is read once.

    Raises
    ------
    DatabaseNotFoundError
        If ``root`` is a file; one that is not there yet is empty.
    """
    if os.path.isfile(root):  # to Path.is_file a name that is too long is an error
        raise DatabaseNotFoundError(
            f"cannot use {root} as a database: {root} is a file, not a folder; move it away, or "
            "choose another place"
        )
    committed = committed_root()
    return Finder([root] if root.resolve() == committed.resolve() else [root, committed])


def warn_of_bad_lines(
    databases: Finder,
    target: ResolvedTarget,
    accept: Tier = Tier.EXACT,
    *,
    nearest: bool = False,
) -> None:
    """Say what of the databases is skipped: a record is never dropped silently.

    Parameters
    ----------
    accept, nearest
        As :func:`tuned_shapes` takes them.
    """
    for family in _families(databases, target, accept):
        keys, unread = databases.readable(target.key, family)
        for error in unread:
            print(f"prefilltune: skipped: {error}", file=sys.stderr)
        for key in keys:
            for path, line in databases.bad_lines(key):
                print(f"prefilltune: {path}:{line.line}: skipped: {line.reason}", file=sys.stderr)
        if nearest and any(databases.workloads(key) for key in keys):
            return


def tuned_shapes(
    databases: Finder,
    target: ResolvedTarget,
    spec: PrefillSpec,
    usual: list[PrefillShape],
    accept: Tier = Tier.EXACT,
    *,
    nearest: bool = False,
) -> list[PrefillShape]:
    """Every shape of ``spec`` that has a record which serves the target, else the usual ones.

    A record of another spec is of this one where both amount to the same in its shape.

    Parameters
    ----------
    accept : Tier
        The furthest target whose records do.
    nearest : bool
        Whether a target's records are left out where a nearer one has some of ``spec``; the devices
        of one family count as one.

    Raises
    ------
    NoRecordError
        If there are none of either.
    """
    families = _families(databases, target, accept)
    of_spec = (
        [shape for each, shape in workloads if each.within(shape) == spec.within(shape)]
        for workloads in _recorded(databases, target, families, spec.dtype)
    )
    shapes = _in_order(of_spec, nearest=nearest)
    if not shapes and not usual:
        raise nothing_tuned(databases, target, spec, accept)
    return shapes or usual


def tuned_workloads(
    databases: Finder,
    target: ResolvedTarget,
    dtype: str,
    shapes: Sequence[PrefillShape],
    accept: Tier = Tier.EXACT,
    *,
    nearest: bool = False,
) -> list[tuple[PrefillSpec, PrefillShape]]:
    """Every workload that a record serves, of the given dtype and shapes if any are given.

    Parameters
    ----------
    accept : Tier
        As :func:`tuned_shapes` takes it.
    nearest : bool
        Whether a target's records are left out where a nearer one has some that the options leave:
        who names no workload means those that were tuned on the device at hand, if any were.
    """
    alone = [[key] for family in _families(databases, target, accept) for key in family]
    left = (
        [(spec, shape) for spec, shape in workloads if not shapes or shape in shapes]
        for workloads in _recorded(databases, target, alone, dtype)
    )
    found = _in_order(left, nearest=nearest)
    if not found:
        raise NoRecordError(
            f"no database has a record for {target.key} that the options leave; name a workload "
            f"with --model or --heads, or tune one first; {first_tune(target, databases.roots[0])}"
        )
    return found


def nothing_tuned(
    databases: Finder, target: ResolvedTarget, spec: PrefillSpec, accept: Tier | None = None
) -> NoRecordError:
    """The error for a spec without a record.

    Parameters
    ----------
    accept : Tier, optional
        What --accept says; None where a command has no such option.
    """
    from ..backends.commands import advice

    tune = advice("tune", target, spec, PrefillShape(1, 128), database=databases.roots[0])
    near = "" if accept is None else _near(databases, target, spec, accept)
    return NoRecordError(
        f"no record for {spec} on {target.key} in {databases.roots[0]} or among the committed "
        f"ones; {near}tune it first, on the shapes that you serve, such as 1x128; {tune}"
    )


def _near(databases: Finder, target: ResolvedTarget, spec: PrefillSpec, accept: Tier) -> str:
    """Which farther tier has records."""
    from ..backends import backend_of

    runs = {
        text: tier for text, tier in ACCEPTED.items() if tier <= backend_of(target.kind).furthest
    }
    for option, tier in runs.items():
        keys = databases.targets(target.key, tier)
        found = [str(key) for key in keys if tier > accept and _has(databases, key, spec)]
        if found:
            return f"--accept {option} takes those of {', '.join(found)}; or "
    return ""


def first_tune(target: ResolvedTarget, root: Path, *, elsewhere: bool = False) -> str:
    """What to run where there is nothing yet: minutes on any machine, and it ends by comparing."""
    from ..backends.commands import advice

    example = "--model bge-base --shape 1x128"
    return advice("tune", target, database=root, more=example, elsewhere=elsewhere)


def _has(databases: Finder, key: TargetKey, spec: PrefillSpec) -> bool:
    """Whether a target has records of a spec that can be read."""
    try:
        return bool(databases.groups(key, spec))
    except PrefilltuneError:
        return False


def _recorded(
    databases: Finder, target: ResolvedTarget, groups: Iterable[Sequence[TargetKey]], dtype: str
) -> Iterator[list[_Workload]]:
    """What the records that serve a target are of, a list for each group of targets.

    Parameters
    ----------
    groups : Iterable[Sequence[TargetKey]]
        The nearest targets first.
    dtype : str
        That is asked for; empty for the records' own.
    """
    for group in groups:
        keys, _ = databases.readable(target.key, group)
        yield [each for key in keys for each in _of_target(databases, key, dtype)]


def _of_target(databases: Finder, key: TargetKey, dtype: str) -> list[_Workload]:
    texts = databases.workloads(key)
    found = [
        (spec, PrefillShape.parse(shape))
        for text, shape in texts
        if (spec := PrefillSpec.known(text)) is not None
    ]
    return _in_dtype(found, (dtype, *key.dtypes_like(dtype))) if dtype else found


def _in_dtype(found: Iterable[_Workload], dtypes: Sequence[str]) -> list[_Workload]:
    """Workloads in the first of some dtypes; those in another one where a spec has none in it."""
    of_spec: dict[PrefillSpec, dict[str, list[PrefillShape]]] = {}
    for spec, shape in found:
        if spec.dtype in dtypes:
            of_dtype = of_spec.setdefault(spec.in_dtype(dtypes[0]), {})
            of_dtype.setdefault(spec.dtype, []).append(shape)
    return [
        (spec, shape)
        for spec, of_dtype in of_spec.items()
        for shape in of_dtype[min(of_dtype, key=dtypes.index)]
    ]


def _in_order(of_targets: Iterable[list[_T]], *, nearest: bool) -> list[_T]:
    """What targets have, or the nearest that has anything: each once, in a lasting order."""
    filled = islice(filter(None, of_targets), 1 if nearest else None)
    return sorted(set(chain.from_iterable(filled)), key=_order)


def _order(each: PrefillShape | tuple[PrefillSpec, PrefillShape]) -> tuple[str, int, int, int]:
    spec, shape = ("", each) if isinstance(each, PrefillShape) else each
    return str(spec), shape.batch, shape.qo_len, shape.num_kv


def _families(databases: Finder, target: ResolvedTarget, accept: Tier) -> list[list[TargetKey]]:
    """Whose records serve a target: up to a tier, and its family's for a GPU that is elsewhere."""
    return databases.families(target.key, accept if target.is_here else max(accept, Tier.FAMILY))
