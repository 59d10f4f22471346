"""Comparisons as a revision of git holds them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ..errors import InvalidOptionError
from .comparison import Comparison, parse_comparisons


def earlier(revision: str, paths: Sequence[Path]) -> list[Comparison]:
    """The cases that comparison files held at a revision; of one in several files, the first's.

    Parameters
    ----------
    revision : str
        A commit, branch or tag.
    paths : Sequence[Path]
        Of the files, whether they are there today or not. Those in no clone are left out.

    Raises
    ------
    InvalidOptionError
        If all of them lie in no clone, or a clone has no such revision.
    InvalidComparisonError
        If what a file held does not follow the schema.
    """
    in_clones = [path for path in paths if _git(_folder(path), "rev-parse", "--git-dir")]
    if not in_clones:
        raise InvalidOptionError(
            f"--against compares with a revision of git, and {paths[0]} lies in no clone; give a "
            "--database that does"
        )
    cases: dict[tuple[str, ...], Comparison] = {}
    for path in in_clones:
        for each in _comparisons_at(revision, path):
            cases.setdefault(each.case, each)
    return list(cases.values())


def _comparisons_at(revision: str, path: Path) -> list[Comparison]:
    """The cases of a file at a revision; none if it was not there."""
    folder = _folder(path)
    wanted = f"{revision}^{{commit}}"
    commit = _git(folder, "rev-parse", "--verify", "--quiet", "--end-of-options", wanted)
    if commit is None:
        raise InvalidOptionError(
            f"--against is {revision!r}, which git does not know in {folder}; name a commit, "
            "branch or tag, such as HEAD~1 or origin/main"
        )
    inside = path.absolute().relative_to(folder).as_posix()
    text = _git(folder, "show", f"{commit.strip()}:./{inside}")
    return [] if text is None else parse_comparisons(_json(text), f"{path} at {revision}")


def _folder(path: Path) -> Path:
    """The nearest that is there today."""
    return next(each for each in path.absolute().parents if each.is_dir())


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None  # which no schema takes


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says; None if it fails."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True, text=True, encoding="utf-8", check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise InvalidOptionError("--against needs git, which is not installed") from None
    return done.stdout if done.returncode == 0 else None
