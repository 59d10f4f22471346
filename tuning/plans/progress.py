"""How far a plan is, what it does next, and where that is noted."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ...database.durable import write_atomically
from ..errors import DiskFullError, InvalidPlanError

_VERSION = 2

# What a workload's first slice is expected to gain, and its second.
_UNKNOWN_GAIN = 0.5
# A curve is flat if two slices together made the kernel faster by no more than this share.
_FLAT, _FLAT_SLICES = 0.01, 2


@dataclass(frozen=True)
class Slice:
    """One search of a plan for one workload.

    Parameters
    ----------
    trials : int
        Of the workload, in all searches up to its end.
    best : float or None
        Seconds of the fastest kernel up to its end; ``None`` if none is correct.
    seconds : float
        That it took.
    exhausted : bool
        Whether there is nothing left to try.
    """

    trials: int
    best: float | None
    seconds: float
    exhausted: bool = False


@dataclass(frozen=True)
class Progress:
    """What a plan has done for one workload, and why it does no more, if that is so.

    Parameters
    ----------
    slices : tuple[Slice, ...]
        The searches so far.
    """

    slices: tuple[Slice, ...] = ()

    @property
    def trials(self) -> int:
        """In all searches."""
        return self.slices[-1].trials if self.slices else 0

    @property
    def best(self) -> float | None:
        """Seconds of the fastest kernel, if there is one."""
        return self.slices[-1].best if self.slices else None

    def gain(self, back: int = 1) -> float:
        """By what share of its time the last slices made the kernel faster; 0 for none at all.

        >>> Progress((Slice(8, 2.0, 1.0), Slice(16, 1.5, 1.0))).gain()
        0.25
        """
        if len(self.slices) <= back or self.best is None:
            return _UNKNOWN_GAIN if self.best is not None else 0.0
        before = self.slices[-1 - back].best
        return 1.0 if before is None else max(0.0, 1 - self.best / before)

    def expected_gain(self) -> float:
        """Share of a kernel's time that the next slice may save, a second of search."""
        if not self.slices:
            return math.inf
        return self.gain() / 2 / max(self.slices[-1].seconds, 1e-3)

    def ended(self, most_trials: int | None) -> str:
        """Why no more is to be done; empty if there is."""
        if self.slices and self.slices[-1].exhausted:
            return "exhausted"
        if most_trials is not None and self.trials >= most_trials:
            return "all trials made"
        if len(self.slices) < _FLAT_SLICES or self.gain(_FLAT_SLICES) > _FLAT:
            return ""
        return "nothing found" if self.best is None else "flat"


@dataclass
class Ledger:
    """A plan's progress on disk.

    Parameters
    ----------
    path : Path
        The file; written anew, atomically, when a slice begins and when it ends.
    seconds : float
        The plan's budget.
    most_trials : int, optional
        For each workload.
    progress : dict[str, Progress]
        By workload, as :meth:`~prefilltune.workloads.Case.on` names it, in the plan's order.
    faults : dict[str, int]
        Of devices, builders and searches, survived so far.
    spent : float
        Seconds of the budget: while any search ran, up to the last slice's end.
    searching : list[str]
        Workloads whose slice was under way when the file was written.
    """

    path: Path
    seconds: float = 0.0
    most_trials: int | None = None
    progress: dict[str, Progress] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    spent: float = 0.0
    searching: list[str] = field(default_factory=list)

    @property
    def undone(self) -> list[str]:
        """Workloads with something left to do, in the plan's order."""
        return [name for name, done in self.progress.items() if not done.ended(self.most_trials)]

    def next_case(self, barred: Collection[str] = ()) -> str | None:
        """The workload that promises most, the first among equals; ``None`` if all is done.

        Parameters
        ----------
        barred : Collection[str]
            Workloads whose turn it is not.
        """
        waiting = [name for name in self.undone if name not in barred]
        return max(waiting, key=lambda name: self.progress[name].expected_gain(), default=None)

    def add(self, name: str, done: Slice, faults: Mapping[str, int]) -> None:
        """Note a slice, and write the file."""
        self.progress[name] = Progress((*self.progress[name].slices, done))
        for kind, count in faults.items():
            self.faults[kind] = self.faults.get(kind, 0) + count
        self.write()

    def write(self) -> None:
        """Write the file.

        Raises
        ------
        DiskFullError
            If it cannot be written.
        """
        data = {
            "version": _VERSION,
            "seconds": self.seconds,
            "most_trials": self.most_trials,
            "faults": self.faults,
            "spent": self.spent,
            "searching": self.searching,
            "progress": {
                name: [asdict(each) for each in done.slices] for name, done in self.progress.items()
            },
        }
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, [json.dumps(data, indent=1).encode()])
        except OSError as error:
            raise DiskFullError(
                f"{self.path} cannot be written ({error.strerror}); make room, or give it back its "
                "permissions, and run the plan again to go on from there"
            ) from error


def read_ledger(path: Path) -> Ledger:
    """What a plan noted; an empty ledger if it never ran.

    Raises
    ------
    InvalidPlanError
        If the file has another form.
    """
    if not path.exists():
        return Ledger(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["version"] != _VERSION:
            raise ValueError(f"version {data['version']!r}, not {_VERSION}")
        progress = {
            str(name): Progress(tuple(Slice(**each) for each in slices))
            for name, slices in data["progress"].items()
        }
        faults = {str(kind): int(count) for kind, count in data["faults"].items()}
        searching = [str(name) for name in data["searching"]]
        budget, spent = float(data["seconds"]), float(data["spent"])
        return Ledger(path, budget, data["most_trials"], progress, faults, spent, searching)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidPlanError(
            f"{path} does not say how far a plan is ({error}); delete it: no trial is lost, they "
            "are in the logs"
        ) from None


def ledger_path(root: Path, name: str) -> Path:
    """Of a plan in a database."""
    return root / "plans" / f"{name}.json"


def planned(ledger: Ledger, cases: Iterable[str]) -> dict[str, Progress]:
    """The progress of the cases of a plan as it is now, which may not be as it was."""
    return {name: ledger.progress.get(name, Progress()) for name in cases}
