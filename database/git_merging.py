"""Merging two branches that both changed the records of a target.

Git merges file by file: a driver sees three versions of one file, in an order that is git's, and
writes one. So every rule here works on a single file, and the rules fit together:

- ``workloads.json`` keeps every line of both sides, ours first: a record may need it.
- ``provenance.json`` keeps every digest; a record that one side removed goes, unless the other
  measured it again; of two new measurements the later stays.
- ``records.json`` follows the same rule, line by line.

A record's workload index points into another file. The driver finds that file's versions in
git's history, by the commit that holds the very version it was given, and then writes the right
indices. Where history does not tell (a stash, a virtual merge base), the lines keep the indices
that they had: the reader finds each record by its id, and ``prefilltune db repair`` links it anew.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, TypeVar

from ..workloads.errors import PrefilltuneError
from .contents import FILES, PROVENANCE, RECORDS, WORKLOADS
from .entry import Entry
from .errors import UnmergeableError
from .merging import provenance_recency, recency
from .provenance import check_file, file_lines
from .scratch import ScratchFolder
from .store import RecordStore
from .target_key import TargetKey

DRIVER = "prefilltune"

_Value = TypeVar("_Value")
#: Contents of the three files of a target at one commit, by name.
Snapshot = Mapping[str, bytes]

_COMMITS = 50  # searched for the version of a file, the newest first


@dataclass(frozen=True)
class Installed:
    """How git was told of the driver.

    Parameters
    ----------
    settings : Mapping of str to str
        Set in the configuration of the repository.
    attributes : tuple of str
        What `.gitattributes` must say.
    """

    settings: Mapping[str, str]
    attributes: tuple[str, ...]


def install_driver(arguments: str) -> Installed:
    """Let git merge records in the repository of the working directory.

    Parameters
    ----------
    arguments : str
        Of this Python, whose command line then calls :func:`merge_versions`.

    Raises
    ------
    UnmergeableError
        Outside a repository, or without git.
    """
    settings = {
        f"merge.{DRIVER}.name": "records of prefilltune",
        f"merge.{DRIVER}.driver": f"{shlex.quote(sys.executable)} {arguments}",
    }
    for name, value in settings.items():
        try:
            subprocess.run(["git", "config", name, value], capture_output=True, check=True)
        except OSError as error:
            raise UnmergeableError(
                f"git cannot be started ({error}); install it, or correct the PATH"
            ) from error
        except subprocess.CalledProcessError as error:
            said = " ".join(error.stderr.decode(errors="replace").split())
            raise UnmergeableError(
                f"`git config {name}` failed ({said or error}); run this inside a git repository "
                "whose settings can be written"
            ) from error
    return Installed(settings, tuple(f"database/records/*/{name} merge={DRIVER}" for name in FILES))


def merge_versions(path: str, base: bytes, ours: bytes, theirs: bytes) -> bytes:
    """Merge three versions of one file of records.

    Parameters
    ----------
    path : str
        Of the file, relative to the top of the working tree, which is the working directory.
    base, ours, theirs : bytes
        Contents: the common ancestor's (empty if there is none) and the two sides'.

    Raises
    ------
    UnmergeableError
        If the file is none of the three, or a provenance file is unreadable or of another target
        or TVM version than the other.
    """
    name = PurePosixPath(path).name
    if name == WORKLOADS:
        return merge_workloads(ours, theirs)
    if name == PROVENANCE:
        return merge_provenance(base, ours, theirs)
    if name == RECORDS:
        snapshots = [find_snapshot(path, version) for version in (base, ours, theirs)]
        linked = merge_linked(PurePosixPath(path).parent.name, *snapshots)
        return merge_records(base, ours, theirs) if linked is None else linked
    raise UnmergeableError(f"{path} is none of {', '.join(FILES)}; correct .gitattributes")


def merge_workloads(ours: bytes, theirs: bytes) -> bytes:
    """Every line of both, ours first."""
    return _joined(dict.fromkeys([*_lines(ours), *_lines(theirs)]))


def merge_records(base: bytes, ours: bytes, theirs: bytes) -> bytes:
    """The lines of both, ours first, without those that one side removed."""
    versions = [{line: line for line in _lines(text)} for text in (base, ours, theirs)]
    return _joined(three_way(*versions, choose=lambda line, _: line))


def merge_provenance(base: bytes, ours: bytes, theirs: bytes) -> bytes:
    """Every digest of both, and the records that neither side removed.

    Raises
    ------
    UnmergeableError
        If a side is unreadable, or the two are of different targets or versions of TVM.
    """
    one, other = _frame(ours, "ours"), _frame(theirs, "theirs")
    ancestor = _frame(base, "the ancestor's") if base.strip() else {"records": {}}
    for field, value in (("target", str), ("tvm", _minor)):
        if value(one[field]) != value(other[field]):
            raise UnmergeableError(
                f"{PROVENANCE}: {field} is {one[field]!r} on our side and {other[field]!r} on "
                "theirs; keep one side, and run `prefilltune db migrate` on the other"
            )
    records = three_way(
        ancestor["records"], one["records"], other["records"], choose=_later_provenance
    )
    merged = {
        **one,
        "tvm": max(one["tvm"], other["tvm"]),
        "digests": sorted({*one["digests"], *other["digests"]}),
        "records": records,
    }
    return _joined(file_lines(merged))


def merge_linked(
    folder: str, base: Snapshot | None, ours: Snapshot | None, theirs: Snapshot | None
) -> bytes | None:
    """``records.json`` with indices into the ``workloads.json`` that git will write.

    Returns
    -------
    bytes or None
        Nothing where a snapshot is unknown or not intact.
    """
    if base is None or ours is None or theirs is None:
        return None
    try:
        entries = [_entries(folder, snapshot) for snapshot in (base, ours, theirs)]
    except (PrefilltuneError, ValueError):
        return None
    merged = three_way(*entries, choose=lambda one, other: max(one, other, key=recency))
    workloads = [json.loads(line)[0] for line in _workloads_to_come(base, ours, theirs)]
    if not {entry.workload_line[0] for entry in merged.values()} <= {*workloads}:
        return None
    return _joined(
        _dumps([workloads.index(entry.workload_line[0]), entry.payload])
        for entry in merged.values()
    )


def three_way(
    base: Mapping[str, _Value] | Mapping[bytes, _Value],
    ours: Mapping,
    theirs: Mapping,
    *,
    choose: Callable[[_Value, _Value], _Value],
) -> dict:
    """Merge two descendants of ``base``, in our order with their new keys at the end.

    What one side alone changed or removed is so; what one side changed and the other removed
    stays; of what both changed, ``choose(ours, theirs)`` stays.
    """
    merged = {}
    for key in {**ours, **theirs}:
        old, one, other = base.get(key), ours.get(key), theirs.get(key)
        if other in (one, old):
            value = one
        elif one == old:
            value = other
        elif one is None or other is None:
            value = other if one is None else one
        else:
            value = choose(one, other)
        if value is not None:
            merged[key] = value
    return merged


def find_snapshot(path: str, content: bytes) -> Snapshot | None:
    """The three files of the newest known commit in which ``path`` holds ``content``.

    Parameters
    ----------
    path : str
        Relative to the top of the working tree, which is the working directory.
    content : bytes
        Of the file; no snapshot is needed for an empty one.

    Returns
    -------
    Mapping of str to bytes, or None
        Nothing if no commit is found.
    """
    if not content.strip():
        return dict.fromkeys(FILES, b"")
    blob = _git("hash-object", "--no-filters", "--stdin", content=content)
    folder = PurePosixPath(path).parent
    for commit in _commits(path, blob) if blob else ():
        if _git("rev-parse", "--verify", "--quiet", f"{commit}:{path}") == blob:
            return {name: _show(f"{commit}:{folder / name}") for name in FILES}
    return None


def _commits(path: str, blob: bytes) -> Iterator[str]:
    """Where to look for a version of a file: the sides of the merge, then all of history."""
    prefix = "GITHEAD_"  # `git merge` names what it merges so
    yield "HEAD"
    yield from (name.removeprefix(prefix) for name in os.environ if name.startswith(prefix))
    found = _git(
        "log", "-m", f"--max-count={_COMMITS}", "--format=%H", "--all", "--reflog", "HEAD",
        f"--find-object={blob.decode()}", "--", path,
    )  # fmt: skip
    yield from found.decode().split()


def _git(*arguments: str, content: bytes = b"") -> bytes:
    """What git prints; nothing if it fails."""
    done = subprocess.run(["git", *arguments], input=content, capture_output=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else b""


def _show(name: str) -> bytes:
    return subprocess.run(["git", "show", name], capture_output=True, check=False).stdout


def _entries(folder: str, snapshot: Snapshot) -> dict[str, Entry]:
    """The records of a commit.

    Raises
    ------
    ValueError
        If a line is not intact: a line by line merge loses none.
    """
    if not snapshot[RECORDS].strip():
        return {}
    key = TargetKey.parse(folder)
    with ScratchFolder() as root:
        copy = root / folder
        copy.mkdir()
        for name, content in snapshot.items():
            (copy / name).write_bytes(content)
        store = RecordStore.open(root, key)
        entries = {entry.record_id: entry for entry in store.entries}
        if store.problems:
            raise ValueError(f"{folder} is not intact")
        return entries


def _workloads_to_come(base: Snapshot, ours: Snapshot, theirs: Snapshot) -> list[bytes]:
    """The lines that git's merge of ``workloads.json`` ends in."""
    old, one, other = (snapshot[WORKLOADS] for snapshot in (base, ours, theirs))
    if other in (one, old):  # git asks a driver only where both sides changed
        return _lines(one)
    return _lines(other if one == old else merge_workloads(one, other))


def _later_provenance(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    try:
        return max(one, other, key=provenance_recency)
    except (TypeError, KeyError, AttributeError) as error:
        raise UnmergeableError(
            f"{PROVENANCE}: a record is malformed ({error}); run `prefilltune db verify` on both "
            "branches"
        ) from error


def _frame(text: bytes, side: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
        check_file(data, PROVENANCE)
    except (ValueError, RecursionError) as error:
        raise UnmergeableError(
            f"{PROVENANCE}: {side} cannot be read ({error}); restore it from git"
        ) from error
    return data


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]


def _lines(text: bytes) -> list[bytes]:
    return [line for line in text.split(b"\n") if line.strip()]


def _joined(lines: Iterable[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def _dumps(value: Any) -> bytes:
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()
