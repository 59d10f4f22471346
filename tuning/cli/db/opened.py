"""The databases that a command looks into or changes, and their records."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ....database import (
    BadLine,
    Entry,
    InvalidTargetKeyError,
    NoRecordError,
    RecordStore,
    TargetKey,
    committed_root,
    target_keys,
)
from ....workloads import PrefilltuneError
from ...errors import InvalidOptionError, NothingFoundError
from ...measuring.tvm_import import import_tvm_without_torch
from ..records import work_root

TargetOption = Annotated[
    str,
    typer.Option(
        "--target",
        help="The name of a target's folder, or a target as `tune` takes it (llvm is this CPU); "
        "every target when absent.",
    ),
]


@dataclass(frozen=True)
class Opened:
    """A target of a database, or why it cannot be opened."""

    root: Path
    key: TargetKey
    entries: tuple[Entry, ...] = ()
    problems: tuple[BadLine, ...] = ()
    error: str = ""

    @property
    def folder(self) -> Path:
        return self.root / str(self.key)


@dataclass(frozen=True)
class ReadOptions:
    """Of a command that only looks at records."""

    database: Annotated[
        Path | None,
        typer.Option(
            "--database",
            help="Folder of records; the work database and the committed one if absent.",
        ),
    ] = None
    target: TargetOption = ""

    def open_all(self) -> Iterator[Opened]:
        """Each target that is asked for; one that cannot be opened says why."""
        return open_all(self.roots, self.target)

    @property
    def roots(self) -> list[Path]:
        if self.database is not None:
            return [self.database]
        return [root for root in (work_root(), committed_root()) if root.is_dir()]


@dataclass(frozen=True)
class OwnOptions:
    """Of a command that changes records."""

    database: Annotated[
        Path | None,
        typer.Option("--database", help="Folder of records; the work database when absent."),
    ] = None
    target: TargetOption = ""

    @property
    def root(self) -> Path:
        return self.database or work_root()

    @property
    def keys(self) -> list[TargetKey] | None:
        return keys_of(self.target)

    def open_all(self) -> Iterator[Opened]:
        """Each target that is asked for; one that cannot be opened says why."""
        return open_all([self.root], self.target)


def open_all(roots: Sequence[Path], target: str) -> Iterator[Opened]:
    """A target of each database, or all of them; one that cannot be opened says why.

    Raises
    ------
    NothingFoundError
        If no database has the target.
    """
    keys = keys_of(target)
    found = [
        (root, key) for root in roots for key in target_keys(root) if keys is None or key in keys
    ]
    if keys and not found:
        raise NothingFoundError(
            f"{', '.join(map(str, roots))}: no records of {keys[0]}; "
            f"{list_command(roots[0] if len(roots) == 1 else None)} shows what there is"
        )
    for root, key in found:
        try:
            store = RecordStore.open(root, key)
            yield Opened(root, key, tuple(store.entries), tuple(store.noticed))
        except PrefilltuneError as error:
            yield Opened(root, key, error=str(error))


def all_usable(opened: Iterable[Opened]) -> list[Opened]:
    """For a command that would do half of its work if it passed over a folder.

    Raises
    ------
    NothingFoundError
        If one cannot be opened.
    """
    found: list[Opened] = []
    for each in opened:
        if each.error:
            raise NothingFoundError(each.error)
        found.append(each)
    return found


def find_record(
    start: str, opened: Iterable[Opened], database: Path | None
) -> tuple[TargetKey, Entry]:
    """The one record whose id begins with ``start``.

    Parameters
    ----------
    database : Path, optional
        That was asked for, for errors.

    Raises
    ------
    NoRecordError, InvalidOptionError
        If there is none, or more than one.
    """
    opened = list(opened)
    found = [
        (each.key, entry)
        for each in opened
        for entry in each.entries
        if entry.record_id.startswith(start)
    ]
    ids = sorted({entry.record_id for _, entry in found})
    if not ids:
        raise NoRecordError(
            f"no record begins with {start!r}; {list_command(database)} shows all"
            + _in_history(start, [each.root for each in opened])
        )
    if len(ids) > 1:
        raise InvalidOptionError(
            f"{len(ids)} records begin with {start!r}: {', '.join(ids[:5])}; write more of one"
        )
    return found[0]


def _in_history(start: str, roots: Sequence[Path]) -> str:
    """Where to look for a record that is not in a database any more; empty outside of git."""
    in_git = [
        root
        for root in map(Path.resolve, roots)
        if any((folder / ".git").exists() for folder in (root, *root.parents))
    ]
    if not in_git:
        return ""
    log = shlex.join(["git", "-C", str(in_git[-1]), "log", f"-S{start}", "--oneline", "--", "."])
    return f"; when one went, and what came in its place, is in git: {log}"


def database_option(root: Path) -> str:
    """The option that names a database."""
    return f"--database {shlex.quote(str(root))}"


def list_command(root: Path | None) -> str:
    """The command that shows what a database has; those that commands read when it is None."""
    return f"`prefilltune db list{'' if root is None else ' ' + database_option(root)}`"


def keys_of(target: str) -> list[TargetKey] | None:
    """The one of a folder's name, or of a target as `tune` takes it; ``None`` for all."""
    if not target:
        return None
    try:
        return [TargetKey.parse(target)]
    except InvalidTargetKeyError:
        import_tvm_without_torch()
        from ...backends.resolving import resolve_target

        return [resolve_target(target).key]
