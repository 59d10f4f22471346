"""Commands that messages print, complete: whoever copies one runs what the message means."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...database import Match, Tier, work_root
from ...workloads import PrefillShape, PrefillSpec
from ...workloads.phrases import hides_nothing
from ..counting import count
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


def stand_ins(
    matches: Mapping[PrefillShape, Match], target: ResolvedTarget, spec: PrefillSpec, database: Path
) -> list[str]:
    """What is to be known of records that stand for a spec, and what makes such of its own.

    A line for each tier, but for records that are of their own shape, target, dtype and layout.
    Where a GPU is elsewhere and named by its architecture alone, those of any such device are its
    own.

    Parameters
    ----------
    matches : Mapping[PrefillShape, Match]
        The records, by the shape that each stands for.
    database : Path
        Folder of records that takes those of its own.
    """
    lines = []
    own = {Tier.EXACT} if target.is_here else {Tier.EXACT, Tier.FAMILY}
    standing = {
        shape: match
        for shape, match in matches.items()
        if match.tier not in own or _otherwise(match, spec)
    }
    for tier in sorted({match.tier for match in standing.values()}):
        of_tier = {shape: match for shape, match in standing.items() if match.tier is tier}
        tune = advice("tune", target, spec, *of_tier, database=database)
        origins = ", ".join(dict.fromkeys(_origin(match, spec) for match in of_tier.values()))
        lines.append(f"{spec}: {tier}: {origins}; for records of its own {tune}")
    return lines


def windows_that_hide_nothing(
    matches: Mapping[PrefillShape, Match], spec: PrefillSpec
) -> list[str]:
    """Which records of what a spec amounts to in some shapes stand for it there, a line each.

    Parameters
    ----------
    matches : Mapping[PrefillShape, Match]
        The records, by the shape that each stands for.
    """
    found: dict[str, list[PrefillShape]] = {}
    for shape, match in matches.items():
        tuned = match.entry.provenance.spec
        if PrefillSpec.parse(tuned).window != spec.window:
            found.setdefault(tuned, []).append(shape)
    return [f"{hides_nothing(spec, each)}: records of {tuned}" for tuned, each in found.items()]


def _otherwise(match: Match, spec: PrefillSpec) -> str:
    """What a record was tuned on in the place of a spec's dtype and layout; empty for these."""
    tuned = PrefillSpec.parse(match.entry.provenance.spec)
    in_dtype = "" if tuned.dtype == spec.dtype else f" in {tuned.dtype}"
    of_layout = "" if tuned.layout == spec.layout else f" of {tuned.layout} batches"
    return in_dtype + of_layout


def _origin(match: Match, spec: PrefillSpec) -> str:
    """Where a record that stands for a workload comes from."""
    otherwise = _otherwise(match, spec)
    if match.tier is Tier.NEAREST_SHAPE:
        return f"the record of {match.entry.provenance.shape}{otherwise}"
    return f"records of {match.key}{otherwise}, timed {on_device(timed_on(match))}"


def timed_on(match: Match) -> str:
    """The name of the machine that timed a record; empty for one that was only checked."""
    device = match.entry.provenance.device
    return "" if device.get("timed") is False else str(device.get("name"))


def timed_elsewhere(match: Match, target: ResolvedTarget) -> str | None:
    """What timed a record, if it was not the machine at hand with as many threads.

    Returns
    -------
    str or None
        As :func:`timed_on`, with the threads of a CPU; None where it was timed here.
    """
    name, threads = timed_on(match), match.entry.provenance.device.get("threads")
    if name == backend_of(target.kind).device_name() and threads in (None, target.threads):
        return None
    return f"{name} with {count(int(threads), 'thread')}" if name and threads else name


def on_device(name: str) -> str:
    """Where a record was timed, in words.

    Parameters
    ----------
    name : str
        As :func:`timed_on` returns it.

    Examples
    --------
    >>> on_device("AMD EPYC"), on_device("")
    ('on AMD EPYC', 'nowhere')
    """
    return f"on {name}" if name else "nowhere"


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
