"""Every trial of a search, one JSON line each, so that a later search goes on from there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...database import schedule_name
from ...database.writing import make_folder, writing

_KEPT = "what it holds is kept: run the same command again to go on from there"

#: A design space by name and a variant of it, hashable.
ArmKey = tuple[str, tuple[tuple[str, "int | bool | str"], ...]]


@dataclass(frozen=True)
class Trial:
    """One candidate of a search and what came of it.

    Parameters
    ----------
    space : str
        Name of the design space.
    variant : Mapping[str, int | bool | str]
        Of the space.
    trace : object
        The candidate's trace in MetaSchedule's JSON.
    run_secs : tuple[float, ...]
        Seconds a call, one for each repeat; empty for a failure.
    failure : str
        What went wrong: ``schedule`` (of a whole variant, which then has no trace), ``build``,
        ``build timeout``, ``crash``, ``run timeout``, ``run error``, ``launch failure``, ``device
        fault`` or ``wrong result``; empty for a success.
    detail : str
        More about the failure.
    elapsed : float
        Seconds from the start of its search to the end of the trial.
    """

    space: str
    variant: Mapping[str, int | bool | str]
    trace: Any
    run_secs: tuple[float, ...] = ()
    failure: str = ""
    detail: str = ""
    elapsed: float = 0.0

    @property
    def seconds(self) -> float:
        """Fastest repeat, for what else runs only ever adds; infinite for a failure."""
        return min(self.run_secs, default=float("inf"))

    @property
    def arm(self) -> ArmKey:
        """Equal for two trials exactly if one arm proposed them."""
        return arm_key(self.space, self.variant)

    @property
    def identity(self) -> str:
        """Equal for two trials exactly if they measured the same schedule."""
        return schedule_name(self.space, self.variant, self.trace)


@dataclass
class TrialLog:
    """An append-only file of trials.

    Parameters
    ----------
    path : Path
        The file; it and its folder are made by the first append.
    stamp : Mapping[str, str]
        Versions the trials depend on; earlier lines with another stamp are left alone and not used.
    """

    path: Path
    stamp: Mapping[str, str]
    skipped: int = field(default=0, init=False)

    def read(self) -> list[Trial]:
        """The trials measured under the same stamp; ``skipped`` counts the lines left out."""
        trials: list[Trial] = []
        self.skipped = 0
        if not self.path.exists():
            return trials
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            trial = self._parse(line)
            if trial is None:
                self.skipped += 1
            else:
                trials.append(trial)
        return trials

    def append(self, trials: list[Trial]) -> None:
        """Add trials; each line is written whole.

        Raises
        ------
        NotWritableError
            If they cannot be written.
        """
        lines = [json.dumps({"stamp": dict(self.stamp), **asdict(trial)}) for trial in trials]
        make_folder(self.path.parent)
        with writing(self.path, _KEPT):
            torn = self.path.exists() and not _ends_in_newline(self.path)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(("\n" if torn else "") + "".join(f"{line}\n" for line in lines))

    def _parse(self, line: str) -> Trial | None:
        stamp, trial = _parsed(line) or (None, None)
        return trial if stamp == dict(self.stamp) else None


def read_trials(path: Path) -> Iterator[Trial]:
    """The trials of a log, whatever versions measured them; other lines are left out."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if (parsed := _parsed(line)) is not None:
                yield parsed[1]


def arm_key(space: str, variant: Mapping[str, int | bool | str]) -> ArmKey:
    """Space and variant, hashable."""
    return space, tuple(sorted(variant.items()))


def _parsed(line: str) -> tuple[Any, Trial] | None:
    """The stamp of a line and its trial; None if it is no line of a log."""
    try:
        fields = json.loads(line)
        stamp = fields.pop("stamp")
        fields["run_secs"] = tuple(float(seconds) for seconds in fields["run_secs"])
        return stamp, Trial(**fields)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _ends_in_newline(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
