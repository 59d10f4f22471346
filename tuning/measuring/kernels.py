"""Kernels that are built, side by side: checked on fresh inputs, and timed in turns.

Whatever chooses between kernels does these two: a search that keeps its best, the re-measuring of
records, a comparison, a sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol

from ...workloads import TOLERANCE, Case
from ..errors import WorkerFailedError
from .engine import Engine
from .timing import interleave
from .worker import Outcome

#: What is added to the seed of a case for the inputs that its kernels are checked on: nothing is
#: passed on inputs that it was chosen by. A search measures on the seed itself, checks what it
#: keeps (and records, later) on the first of these, and a comparison checks on the second.
KEPT_SEED, COMPARED_SEED = 1_000_003, 2_000_003

#: Seconds that one call may take: more than a check or a timing of the slowest kernel.
TIMEOUT = 600.0


class Caller(Protocol):
    """A process that calls functions one at a time: a worker, or a device elsewhere."""

    def call(self, function: Callable[..., Any], *args: Any, timeout: float) -> Outcome:
        """Call a function that the process can import."""
        ...

    def restart(self) -> None:
        """Take a new process, whatever the last one suffered."""
        ...


def call(caller: Caller, function: Callable[..., Any], *arguments: Any) -> Any:
    """What ``function`` returns in another process.

    Raises
    ------
    WorkerFailedError
        If it does not.
    """
    return value_of(caller.call(function, *arguments, timeout=TIMEOUT), function)


def value_of(outcome: Outcome, function: Callable[..., Any]) -> Any:
    """The value of a call that ended well.

    Raises
    ------
    NotWritableError
        If it could not write.
    WorkerFailedError
        If it did not end well for another reason.
    """
    if outcome.unwritable is not None:
        raise outcome.unwritable
    if outcome.status != "ok":
        raise WorkerFailedError(
            f"{function.__name__} ended with {outcome.status}: {outcome.detail}; run again, and "
            "report it if it happens again"
        )
    return outcome.value


def fresh_inputs(case: Case, seed: int) -> tuple[list[tuple[int, ...]], int]:
    """Batches of every regime of lengths, and the seed of their inputs.

    Parameters
    ----------
    seed : int
        :data:`KEPT_SEED` or :data:`COMPARED_SEED`.
    """
    return case.regime_batches(seed), case.seed + seed


def check(
    check_kernel: Callable[..., float],
    case: Case,
    paths: Iterable[str],
    caller: Caller,
    batches: Iterable[Sequence[int]],
    seed: int,
) -> dict[str, Outcome]:
    """Check kernels batch by batch, so that inputs and references are made for all of them at once.

    Parameters
    ----------
    check_kernel : Callable[..., float]
        ``check_kernel(path, spec, shape, lens, seed)``: largest error over batches.
    paths : Iterable[str]
        Of libraries, each once.
    caller : Caller
        Where they run; starts anew after a kernel that crashed, hung or raised.
    batches : Iterable[Sequence[int]]
        Valid lengths of each.
    seed : int
        Of the inputs.

    Returns
    -------
    dict[str, Outcome]
        How the checks of each path ended: ``ok`` with its largest error, if all of its calls did.
        No kernel is checked any further once it is wrong or has failed.
    """
    tolerance = TOLERANCE[case.spec.dtype]
    found = dict.fromkeys(paths, Outcome("ok", 0.0))
    for lens in batches:
        for path, so_far in found.items():
            if so_far.status != "ok" or not so_far.value <= tolerance:
                continue
            arguments = (path, case.spec, case.shape, [lens], seed)
            outcome = caller.call(check_kernel, *arguments, timeout=TIMEOUT)
            if outcome.status == "ok":
                outcome = Outcome("ok", max(outcome.value, so_far.value))
            else:
                caller.restart()
            found[path] = outcome
    return found


def time_in_turns(
    engine: Engine, case: Case, paths: Sequence[str], caller: Caller, rounds: int = 9
) -> list[tuple[float, ...]]:
    """Time kernels on the batches of a case, each once a round.

    Parameters
    ----------
    paths : Sequence[str]
        Of libraries.
    caller : Caller
        Where they run.
    rounds : int
        As :func:`~.timing.interleave` takes them.

    Returns
    -------
    list[tuple[float, ...]]
        Seconds a call of each, one for each of its rounds.

    Raises
    ------
    WorkerFailedError
        If a kernel crashes, hangs or raises.
    """
    arguments = (case.spec, case.shape, case.batches(), case.seed)
    timers = [partial(call, caller, engine.time_kernel, path, *arguments) for path in paths]
    return interleave(timers, rounds, engine.round_seconds)
