"""Are records still good: check what their kernels compute today, and time them again."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ...database import Entry, NotWritableError, Provenance, TargetKey
from ...database.dates import date_now
from ...database.scratch import ScratchFolder
from ...workloads import TOLERANCE, Case, PrefillShape, PrefillSpec, parse_lengths
from ...workloads.lengths import names_a_file
from ..backends import Backend, backend_of
from ..backends.resolving import machine_for
from ..building.rebuilding import Rebuild, Rebuilt, Record, rebuild_here
from ..errors import KernelCheckError, WorkerFailedError
from ..measuring.cpu import tvm_environment
from ..measuring.engine import Engine
from ..measuring.kernels import KEPT_SEED, Caller, check, fresh_inputs, time_in_turns, value_of
from ..measuring.timing import interquartile_range
from ..measuring.worker import Worker
from ..target import ResolvedTarget


@dataclass(frozen=True)
class Remeasured:
    """A record and its times on this machine today.

    Parameters
    ----------
    key : TargetKey
        Whose record it is.
    before : Entry
        The record as it was.
    after : Entry, optional
        With today's times, error, versions and date; ``None`` for a failure.
    failure : str
        Why there are none; empty for a success.
    is_wrong : bool
        Whether its kernel computes something else.
    """

    key: TargetKey
    before: Entry
    after: Entry | None
    failure: str = ""
    is_wrong: bool = False

    @property
    def ratio(self) -> float | None:
        """Today's median time over the recorded one."""
        if self.after is None:
            return None
        return self.after.provenance.median_secs / self.before.provenance.median_secs

    @property
    def drifted(self) -> bool:
        """Whether the medians are further apart than both spreads together."""
        if self.after is None:
            return False
        old, new = self.before.provenance, self.after.provenance
        return abs(new.median_secs - old.median_secs) > old.spread_secs + new.spread_secs


@dataclass(frozen=True)
class Unmeasured:
    """Records that cannot be timed here.

    Parameters
    ----------
    elsewhere : list
        Of other machines.
    on_files : list
        Of this one, but tuned on the lengths of a file, which a record does not hold.
    """

    elsewhere: list[Record]
    on_files: list[Record]


def measure_records(how: Rebuild, records: Sequence[Record]) -> tuple[list[Remeasured], Unmeasured]:
    """Build records in parallel, then check and time them one after another.

    Parameters
    ----------
    how : Callable
        As :func:`~prefilltune.tuning.building.rebuilding.rebuild_here` takes it.
    records : Sequence[tuple[TargetKey, Entry]]
        Of any targets.

    Returns
    -------
    tuple[list[Remeasured], Unmeasured]
        What came of the records of this machine, and those that cannot be timed on it.
    """
    machines = {key: machine_for(key) for key in dict.fromkeys(key for key, _ in records)}
    here = [(key, entry) for key, entry in records if machines[key]]
    own = [(key, entry) for key, entry in here if not names_a_file(entry.provenance.lens)]
    unmeasured = Unmeasured(
        elsewhere=[(key, entry) for key, entry in records if not machines[key]],
        on_files=[(key, entry) for key, entry in here if names_a_file(entry.provenance.lens)],
    )
    measured: list[Remeasured] = []
    with ScratchFolder() as folder:
        built = rebuild_here(how, own, folder)
        for key, machine in machines.items():
            of_it = [each for each in built if each.key == key]
            if machine is not None and of_it:
                # A kernel takes its number of threads from its process.
                with Worker(tvm_environment(machine.threads)) as runner:
                    measured += [_remeasure(each, machine, runner) for each in of_it]
    return measured, unmeasured


def _remeasure(built: Rebuilt, machine: ResolvedTarget, runner: Worker) -> Remeasured:
    if built.failure:
        return Remeasured(built.key, built.before, None, built.failure)
    entry, backend = built.entry, backend_of(machine.kind)
    try:
        case = case_of(entry.provenance)
        error = checked_error(built.path, case, backend.engine, runner)
        (seconds,) = time_in_turns(backend.engine, case, [built.path], runner)
    except NotWritableError:  # which says nothing of the record
        raise
    except (ValueError, OSError, KernelCheckError, WorkerFailedError) as failure:
        runner.close(kill=True)  # a fault may have left it unable to run anything else
        wrong = isinstance(failure, KernelCheckError)
        return Remeasured(built.key, built.before, None, str(failure), wrong)
    return Remeasured(
        built.key, built.before, measured_today(entry, seconds, error, backend, machine)
    )


def checked_error(path: str, case: Case, engine: Engine, runner: Caller) -> float:
    """Largest error of a record's kernel on inputs of its own.

    Raises
    ------
    KernelCheckError
        If it is too large.
    WorkerFailedError, NotWritableError
        If the kernel does not end well.
    """
    fresh = fresh_inputs(case, KEPT_SEED)
    checked = check(engine.check_kernel, case, [path], runner, *fresh)
    error = value_of(checked[path], engine.check_kernel)
    tolerance = TOLERANCE[case.spec.dtype]
    if not error <= tolerance:
        raise KernelCheckError(f"wrong result: error {error:g} above {tolerance:g}")
    return error


def measured_today(
    entry: Entry,
    seconds: tuple[float, ...],
    error: float,
    backend: Backend,
    machine: ResolvedTarget,
) -> Entry:
    """A record with what was measured of it on this machine today.

    Parameters
    ----------
    seconds : tuple of float
        A call of its kernel.
    error : float
        As :func:`checked_error` returned it.
    """
    provenance = dataclasses.replace(
        entry.provenance,
        median_secs=statistics.median(seconds),
        spread_secs=interquartile_range(seconds),
        max_abs_error=error,
        versions=backend.versions(),
        device=backend.device(machine),
        date=date_now(entry.provenance.date),
    )
    return dataclasses.replace(entry, run_secs=seconds, provenance=provenance)


def case_of(provenance: Provenance) -> Case:
    """What a record was tuned for.

    Raises
    ------
    InvalidLengthsError
        If that were the lengths of a file.
    """
    return Case(
        PrefillSpec.parse(provenance.spec),
        PrefillShape.parse(provenance.shape),
        parse_lengths(provenance.lens),
        provenance.seed,
    )
