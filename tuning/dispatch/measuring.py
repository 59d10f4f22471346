"""Timing the kernels of a spec side by side on many shapes: what their boundaries come from."""

from __future__ import annotations

import datetime
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ...database import Match
from ...workloads import PrefillShape, PrefillSpec, parse_lengths
from ..arm import Case
from ..bench import Libraries, call, fresh_batches, refuse_wrong
from ..engines import ENGINES
from ..environment import device, versions
from ..measure import tvm_environment
from ..target import ResolvedTarget
from ..timing import interleave, interquartile_range
from ..worker import Worker
from .boundaries import Leaf, Point
from .factory import planned_kernel
from .plan import Plan
from .sweep_file import Sweep

_ROUNDS = 5
_PER_OCTAVE = 6


def sample(tuned: Sequence[PrefillShape]) -> list[PrefillShape]:
    """The shapes to measure on, given those tuned for.

    Besides these, for each of their batches: lengths from half the shortest to twice the longest,
    :data:`_PER_OCTAVE` to each doubling, for a kernel's time is a staircase whose steps are its
    tiles. Queries and keys are equally long there.

    Examples
    --------
    >>> [shape.num_kv for shape in sample([PrefillShape(1, 64), PrefillShape(1, 128)])]
    [32, 36, 40, 45, 51, 57, 64, 72, 81, 91, 102, 114, 128, 144, 161, 181, 203, 228, 256]
    """
    shapes = set(tuned)
    for batch in {shape.batch for shape in tuned}:
        lengths = [shape.num_kv for shape in tuned if shape.batch == batch]
        shortest, octaves = max(1, min(lengths) // 2), math.log2(max(lengths) / min(lengths)) + 2
        shapes |= {
            PrefillShape(batch, round(shortest * 2 ** (step / _PER_OCTAVE)))
            for step in range(math.ceil(octaves * _PER_OCTAVE) + 1)
        }
    return sorted(shapes, key=lambda each: (each.batch, each.num_kv, each.qo_len))


def measure_sweep(
    spec: PrefillSpec,
    matches: Mapping[str, Match],
    shapes: Sequence[PrefillShape],
    lens: Sequence[str],
    target: ResolvedTarget,
    seed: int = 0,
    listener: Callable[[Case], None] = lambda case: None,
) -> Sweep:
    """Check and time kernels with symbolic sizes on every shape, in turns.

    Parameters
    ----------
    matches : Mapping[str, Match]
        The records, by id.
    shapes : Sequence[PrefillShape]
        To measure on.
    lens : Sequence[str]
        Length distributions, each on every shape.
    target : ResolvedTarget
        This machine's.
    seed : int
        Of the inputs and the lengths.
    listener : Callable[[Case], None]
        Told which shape is next, once for all distributions.

    Raises
    ------
    StaleRecordError
        If a record no longer replays.
    KernelCheckError
        If a kernel computes something wrong on one of the shapes.
    WorkerFailedError
        If a kernel crashes, hangs or raises.
    """
    with Worker(tvm_environment(target.threads), frozen_when_idle=True) as worker:
        libraries = Libraries(worker, target)
        try:
            paths = {
                record: libraries.of(record, partial(_alone, spec, record, match, target))
                for record, match in matches.items()
            }
            points = []
            for shape in shapes:
                cases = [Case(spec, shape, target, parse_lengths(text), seed) for text in lens]
                listener(cases[0])
                _check(cases[0], paths, worker)
                points += [_measure(case, paths, worker) for case in cases]
        finally:
            libraries.close()
    return Sweep(
        spec=str(spec),
        seed=seed,
        device=device(target),
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        versions=versions(target.kind),
        records=tuple(paths),
        points=tuple(points),
    )


def _alone(spec: PrefillSpec, record: str, match: Match, target: ResolvedTarget) -> Any:
    """The module of one record's kernel, which serves every shape."""
    import tvm

    kernel = planned_kernel(Plan(spec, target.key, {record: match}, Leaf(record)), target)
    return tvm.IRModule({"main": kernel.with_attr("global_symbol", "main")})


def _check(case: Case, paths: Mapping[str, str], worker: Worker) -> None:
    for record, path in paths.items():
        arguments = (path, case.spec, case.shape, fresh_batches(case), case.seed)
        check_kernel = ENGINES[case.target.kind].check_kernel
        refuse_wrong(record, case, call(worker, check_kernel, *arguments))


def _measure(case: Case, paths: Mapping[str, str], worker: Worker) -> Point:
    time_kernel = ENGINES[case.target.kind].time_kernel
    arguments = (case.spec, case.shape, case.batches(), case.seed)
    times = interleave(
        [
            lambda seconds, path=path: call(worker, time_kernel, path, *arguments, seconds)
            for path in paths.values()
        ],
        _ROUNDS,
    )
    medians = [statistics.median(each) for each in times]
    spreads = [
        interquartile_range(each) / median for each, median in zip(times, medians, strict=True)
    ]
    seconds = dict(zip(paths, medians, strict=True))
    return Point(case.shape, case.lens.text, seconds, statistics.median(spreads))
