"""Timing the kernels of a spec side by side on many shapes: what their boundaries come from."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ...database import Match
from ...database.dates import date_now
from ...database.scratch import ScratchFolder
from ...workloads import Case, PrefillShape, PrefillSpec, parse_lengths
from ...workloads.arrays import lengths_of
from ..backends import backend_of
from ..building.build import build_library
from ..comparing.bench import refuse_wrong
from ..measuring.cpu import tvm_environment
from ..measuring.kernels import TIMEOUT, check, time_in_turns, value_of
from ..measuring.timing import interquartile_range
from ..measuring.worker import Worker
from ..measuring.workers import call_all
from ..target import ResolvedTarget
from .boundaries import Leaf, Point, Sizes
from .distributions import schedule_of
from .factory import serving_kernel
from .serving import Serving
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
    KernelCheckError
        If a kernel computes something wrong on one of the shapes.
    WorkerFailedError
        If a record no longer replays, or a kernel crashes, hangs or raises.
    """
    with ScratchFolder() as folder:
        paths = _build(spec, matches, target, folder)
        points = []
        with Worker(tvm_environment(target.threads), frozen_when_idle=True) as worker:
            for shape in shapes:
                cases = [Case(spec, shape, parse_lengths(text), seed) for text in lens]
                listener(cases[0])
                _check(cases, target.kind, paths, worker)
                points += [_measure(case, target.kind, paths, worker) for case in cases]
    return Sweep(
        spec=str(spec),
        seed=seed,
        device=backend_of(target.kind).device(target),
        date=date_now(),
        versions=backend_of(target.kind).versions(),
        records=tuple(paths),
        points=tuple(points),
    )


def _build(
    spec: PrefillSpec, matches: Mapping[str, Match], target: ResolvedTarget, folder: Path
) -> dict[str, str]:
    """Paths of libraries by record; records of one schedule, found on several shapes, share one."""
    first: dict[str, str] = {}  # record of a schedule
    paths = {
        record: f"{folder}/{first.setdefault(schedule_of(match), record)}.so"
        for record, match in matches.items()
    }
    calls = [(spec, each, matches[each], target, paths[each]) for each in first.values()]
    for outcome in call_all(build_alone, calls, TIMEOUT):
        value_of(outcome, build_alone)
    return paths


def build_alone(
    spec: PrefillSpec, record: str, match: Match, target: ResolvedTarget, path: str
) -> None:
    """Build one record's kernel, which serves every shape; runs in a worker.

    Raises
    ------
    StaleRecordError
        If the record no longer replays.
    """
    import tvm

    # Without lengths of its own: on these, too, it is the kernel for every shape that is timed.
    kernel = serving_kernel(Serving(spec, target.key, {record: match}, Leaf(record)), target)
    module = tvm.IRModule({"main": kernel.with_attr("global_symbol", "main")})
    build_library(module, target.target, path)


def _check(cases: Sequence[Case], kind: str, paths: Mapping[str, str], worker: Worker) -> None:
    """Check kernels on an irregular batch and on those that they are timed on."""
    case, check_kernel = cases[0], backend_of(kind).engine.check_kernel
    batches = dict.fromkeys([case.check_lens(), *(each.batches()[0] for each in cases)])
    checked = check(check_kernel, case, paths.values(), worker, batches, case.seed)
    for path, outcome in checked.items():
        refuse_wrong(Path(path).stem, case, value_of(outcome, check_kernel))


def _measure(case: Case, kind: str, paths: Mapping[str, str], worker: Worker) -> Point:
    kernels = list(dict.fromkeys(paths.values()))
    times = time_in_turns(backend_of(kind).engine, case, kernels, worker, _ROUNDS)
    medians = {path: statistics.median(each) for path, each in zip(kernels, times, strict=True)}
    spreads = [
        interquartile_range(each) / median
        for each, median in zip(times, medians.values(), strict=True)
    ]
    seconds = {record: medians[path] for record, path in paths.items()}
    packed = sizes_of_packed(case) if case.spec.is_packed else None
    return Point(case.shape, case.lens.text, seconds, statistics.median(spreads), packed)


def sizes_of_packed(case: Case) -> Sizes:
    """What calls on the batches of a case have, in the mean over these.

    Examples
    --------
    >>> spec, shape = PrefillSpec(4, 2, 64, mask_mode="packed"), PrefillShape(2, 512)
    >>> sizes_of_packed(Case(spec, shape, parse_lengths("fixed:100,300")))
    Sizes(batch=2, qo_len=200, kv_len=200, longest=300)
    """
    offsets = [lengths_of(case.spec, case.shape, np.array(each)) for each in case.batches()]
    queries, keys = (
        max(1, round(statistics.fmean(each[-1] for each in ends) / case.shape.batch))
        for ends in zip(*offsets, strict=True)
    )
    longest = round(statistics.fmean(np.diff(ends).max() for ends, _ in offsets))
    return Sizes(case.shape.batch, queries, keys, max(1, longest))
