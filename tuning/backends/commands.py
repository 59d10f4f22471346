"""Commands that messages print, complete: whoever copies one runs what the message means."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from ...database import work_root
from ...workloads import PrefillShape, PrefillSpec
from ..heads import workload_options
from ..target import ResolvedTarget
from . import backend_of

#: Commands that make code for devices that are elsewhere, which ``--arch`` names.
_ANYWHERE = ("build", "explain", "show")


def advice(
    name: str, target: ResolvedTarget, *workload: Any, elsewhere: bool = False, **options: Any
) -> str:
    """What a message ends in: run a command, and where.

    Takes what :func:`command` takes, and whether the target is of another machine for certain.
    """
    here = (target.is_here and not elsewhere) or name in _ANYWHERE
    where = "" if here else f", on a machine of {target.key}"
    return f"run{where}: {command(name, target, *workload, **options)}"


def command(
    name: str,
    target: ResolvedTarget,
    spec: PrefillSpec | None = None,
    *shapes: PrefillShape,
    database: Path | None = None,
    more: str = "",
) -> str:
    """A command for a workload on a target.

    Parameters
    ----------
    name : str
        Such as ``tune``.
    target : ResolvedTarget
        As the command that prints this took it.
    spec : PrefillSpec, optional
        Where the command is for one.
    shapes : PrefillShape
        Of it.
    database : Path, optional
        Folder of records; left out if it is the one that commands take anyhow.
    more : str
        Further options.
    """
    chosen, *rest = backend_of(target.kind).options(target)
    parts = [f"prefilltune {name} --target {shlex.quote(chosen)}"]
    if spec is not None:
        parts.append(workload_options(spec, *shapes))
    if target.is_here or name in _ANYWHERE:
        parts += rest
    if database is not None and database.resolve() != work_root().resolve():
        parts.append(f"--database {shlex.quote(str(database))}")
    return " ".join([*parts, *filter(None, [more])])
