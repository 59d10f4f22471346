"""Where it is noted how far a plan is: one file, which one process at a time goes on with."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import Timeout

from ...database.durable import write_atomically
from ...database.locking import file_lock, is_locked
from ...database.writing import make_folder, writing
from ..counting import count
from ..duration import format_duration
from ..errors import InvalidPlanError, PlanRunningError
from .progress import Progress, Slice

_VERSION = 2
# Seconds: whoever asks whether a plan runs holds its lock for a moment.
_PATIENCE = 1.0


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

    @property
    def unbegun(self) -> list[str]:
        """Workloads that had no slice yet, in the plan's order."""
        return [name for name, done in self.progress.items() if not done.slices]

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
        for kind, times in faults.items():
            self.faults[kind] = self.faults.get(kind, 0) + times
        self.write()

    def line(self, name: str) -> str:
        """How a workload and the budget stand, for people."""
        done = self.progress[name]
        best = "none" if done.best is None else f"{done.best * 1e3:.4g} ms"
        return (
            f"{name}: {count(done.trials, 'trial')}, best {best}, "
            f"{done.ended(self.most_trials) or 'to be gone on with'}; "
            f"{format_duration(self.spent)} of {format_duration(self.seconds)}"
        )

    def write(self) -> None:
        """Write the file.

        Raises
        ------
        NotWritableError
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
        make_folder(self.path.parent)
        with writing(self.path, "no trial is lost: run the plan again to go on from there"):
            write_atomically(self.path, [json.dumps(data, indent=1).encode()])


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


@contextmanager
def plan_lock(root: Path, name: str) -> Iterator[None]:
    """Keep other processes from running the same plan; freed whenever this one ends.

    Raises
    ------
    PlanRunningError
        If one does already.
    NotWritableError
        If the database cannot be written.
    """
    path = _lock_path(ledger_path(root, name))
    make_folder(path.parent)
    with writing(path):
        lock = file_lock(path, _PATIENCE)
        try:
            lock.acquire()
        except Timeout:
            raise PlanRunningError(
                f"another process runs the plan {name} on {root}; wait for its end, or see how it "
                f"stands; run: prefilltune plan status {shlex.quote(name)} --database "
                f"{shlex.quote(str(root))}"
            ) from None
    try:
        yield
    finally:
        lock.release()


def is_running(ledger: Ledger) -> bool:
    """Whether a process runs the plan."""
    return is_locked(_lock_path(ledger.path))


def _lock_path(ledger: Path) -> Path:
    return ledger.with_suffix(".lock")
