"""Are records still good: rebuild them, check what they compute, time them again."""

from __future__ import annotations

import dataclasses
import datetime
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...database import Entry, Match, Provenance, StaleRecordError, TargetKey, Tier, entry_from
from ...database.judging import malformation
from ...workloads import TOLERANCE, Case, PrefillShape, PrefillSpec, parse_lengths
from ..backends import backend_of
from ..backends.resolving import machine_for
from ..building.apply import apply_record
from ..building.build import build_library
from ..devices.slot import Runner
from ..errors import KernelCheckError, WorkerFailedError
from ..measuring.cpu import tvm_environment
from ..measuring.timing import interleave, interquartile_range
from ..measuring.worker import Outcome, Worker
from ..measuring.workers import call_all
from ..spaces import SPACES
from ..target import ResolvedTarget

_BUILD_TIMEOUT = 240.0
_CHECK_TIMEOUT = 300.0
_FRESH_SEED = 1_000_003
# Linking knows the machine at hand alone; an archive of objects can be made for any target.
_LIBRARY, _ARCHIVE = ".so", ".tar"

#: A record and whose it is.
Record = tuple[TargetKey, Entry]
#: Runs in a worker: builds a record's kernel at a path, and returns the record as built.
Builder = Callable[[TargetKey, Entry, str], Entry]


@dataclass(frozen=True)
class Rebuilt:
    """How the rebuild of a record ended.

    Parameters
    ----------
    key : TargetKey
        Whose record it is.
    before, entry : Entry
        The record as it was, and as it was built.
    path : str
        Of the library, if there is one.
    failure : str
        What went wrong; empty for a success.
    """

    key: TargetKey
    before: Entry
    entry: Entry
    path: str
    failure: str = ""


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
    """

    key: TargetKey
    before: Entry
    after: Entry | None
    failure: str = ""

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


def rebuild_records(records: Sequence[Record]) -> list[Rebuilt]:
    """Rebuild records in parallel, each for its own target, which may be another machine's."""
    with tempfile.TemporaryDirectory(prefix="prefilltune-") as folder:
        return _build_all(rebuild, records, Path(folder), _ARCHIVE)


def measure_records(
    builder: Builder, records: Sequence[Record]
) -> tuple[list[Remeasured], list[Record]]:
    """Build records in parallel, then check and time them one after another.

    Parameters
    ----------
    builder : Callable
        :func:`rebuild`, or :func:`replay_on_today` for records of another TVM version.
    records : Sequence[tuple[TargetKey, Entry]]
        Of any targets.

    Returns
    -------
    tuple[list[Remeasured], list[tuple[TargetKey, Entry]]]
        What came of the records of this machine, and the records of other machines.
    """
    machines = {key: machine_for(key) for key in dict.fromkeys(key for key, _ in records)}
    own = [(key, entry) for key, entry in records if machines[key]]
    others = [(key, entry) for key, entry in records if not machines[key]]
    measured: list[Remeasured] = []
    with tempfile.TemporaryDirectory(prefix="prefilltune-") as folder:
        built = _build_all(builder, own, Path(folder), _LIBRARY)
        for key, machine in machines.items():
            here = [each for each in built if each.key == key]
            if machine is not None and here:
                # A kernel takes its number of threads from its process.
                with Worker(tvm_environment(machine.threads)) as runner:
                    measured += [_remeasure(each, machine, runner) for each in here]
    return measured, others


def batches_to_verify(case: Case) -> list[tuple[int, ...]]:
    """Valid lengths of batches of every regime, not those of a search."""
    return case.regime_batches(_FRESH_SEED)


def largest_error(
    case: Case, kind: str, path: str, runner: Runner, batches: Sequence[tuple[int, ...]]
) -> float:
    """Largest error of a kernel over batches, on inputs that no search has seen.

    Raises
    ------
    WorkerFailedError
        If the kernel crashes, hangs or raises.
    """
    arguments = (path, case.spec, case.shape, batches, case.seed + _FRESH_SEED)
    check_kernel = backend_of(kind).engine.check_kernel
    return _value(runner.call(check_kernel, *arguments, timeout=_CHECK_TIMEOUT))


def rebuild(key: TargetKey, entry: Entry, path: str) -> Entry:
    """Replay a record as a build does, and compile it; runs in a worker.

    Raises
    ------
    StaleRecordError
        If it no longer replays.
    """
    from tvm.target import Target

    _refuse_malformed(entry)
    root = Path(entry.origin).parent.parent
    module = apply_record(Match(entry, Tier.EXACT, 0.0, key, root), key.kind)
    build_library(module, Target(entry.target_json), path)
    return entry


def replay_on_today(key: TargetKey, entry: Entry, path: str) -> Entry:
    """Put a record's trace on the description of today, and compile it; runs in a worker.

    Returns
    -------
    Entry
        As this version of TVM writes it, with its old times.

    Raises
    ------
    StaleRecordError
        If its design space is unknown. What TVM raises is passed on.
    """
    from tvm.s_tir import Schedule
    from tvm.s_tir.schedule import Trace
    from tvm.target import Target

    origin = entry.provenance
    if origin.space not in SPACES:
        raise StaleRecordError(
            f"design space {origin.space!r} is unknown to this version, which has "
            f"{', '.join(sorted(SPACES))}; {entry.mend}"
        )
    spec, shape = PrefillSpec.parse(origin.spec), PrefillShape.parse(origin.shape)
    description = SPACES[origin.space].describe(spec, shape, origin.variant, key.kind)
    schedule = Schedule(description)
    Trace.apply_json_to_schedule(entry.trace, schedule)
    assert schedule.trace is not None
    target = Target(entry.target_json)
    build_library(schedule.mod, target, path)
    return entry_from(description, schedule.trace, entry.run_secs, target, origin)


def trace_as_python(entry: Entry) -> list[str]:
    """The trace of a record on its own description, one statement each; runs in a worker."""
    from tvm.s_tir import Schedule
    from tvm.s_tir import meta_schedule as ms
    from tvm.s_tir.schedule import Trace

    _refuse_malformed(entry)
    workload = ms.database.Workload.from_json(list(entry.workload_line))
    schedule = Schedule(workload.mod)
    Trace.apply_json_to_schedule(entry.trace, schedule)
    assert schedule.trace is not None
    return [str(line) for line in schedule.trace.as_python()]


def _refuse_malformed(entry: Entry) -> None:
    """A folder may have come through git: a description that holds machine code is never loaded."""
    if reason := malformation(entry):
        raise StaleRecordError(f"{entry.place}: record {entry.record_id}: {reason}; {entry.mend}")


def _remeasure(built: Rebuilt, machine: ResolvedTarget, runner: Worker) -> Remeasured:
    if built.failure:
        return Remeasured(built.key, built.before, None, built.failure)
    entry = built.entry
    try:
        case = _case(entry.provenance)
        error = largest_error(case, machine.kind, built.path, runner, batches_to_verify(case))
        tolerance = TOLERANCE[case.spec.dtype]
        if not error <= tolerance:
            raise KernelCheckError(
                f"wrong result: error {error:g} above {tolerance:g}; prune the record"
            )
        seconds = _seconds(case, machine.kind, built.path, runner)
    except (ValueError, OSError, KernelCheckError, WorkerFailedError) as failure:
        runner.close(kill=True)  # a fault may have left it unable to run anything else
        return Remeasured(built.key, built.before, None, str(failure))
    provenance = dataclasses.replace(
        entry.provenance,
        median_secs=statistics.median(seconds),
        spread_secs=interquartile_range(seconds),
        max_abs_error=error,
        versions=backend_of(machine.kind).versions(),
        device=backend_of(machine.kind).device(machine),
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )
    after = dataclasses.replace(entry, run_secs=seconds, provenance=provenance)
    return Remeasured(built.key, built.before, after)


def _case(provenance: Provenance) -> Case:
    return Case(
        PrefillSpec.parse(provenance.spec),
        PrefillShape.parse(provenance.shape),
        parse_lengths(provenance.lens),
        provenance.seed,
    )


def _seconds(case: Case, kind: str, path: str, runner: Worker) -> tuple[float, ...]:
    arguments = (path, case.spec, case.shape, case.batches(), case.seed)
    engine = backend_of(kind).engine
    (seconds,) = interleave(
        [lambda s: _value(runner.call(engine.time_kernel, *arguments, s, timeout=_CHECK_TIMEOUT))],
        seconds=engine.round_seconds,
    )
    return seconds


def _build_all(
    builder: Builder, records: Sequence[Record], folder: Path, suffix: str
) -> list[Rebuilt]:
    calls = [
        (key, entry, str(folder / f"{number}{suffix}"))
        for number, (key, entry) in enumerate(records)
    ]
    outcomes = call_all(builder, calls, _BUILD_TIMEOUT)
    return [
        Rebuilt(key, entry, outcome.value or entry, path, _failure(outcome))
        for (key, entry, path), outcome in zip(calls, outcomes, strict=True)
    ]


def _failure(outcome: Outcome) -> str:
    return "" if outcome.status == "ok" else f"{outcome.status}: {outcome.detail}"


def _value(outcome: Outcome) -> Any:
    if outcome.status != "ok":
        raise WorkerFailedError(_failure(outcome))
    return outcome.value
