"""Makes the portable records of a level of CPUs: of known schedules, the best across shapes.

For the attention of each preset, what records have for its head_dim (its own first) and the first
or last schedules of some variants of the space are put on its description: their tiles, and what
was sampled. They are checked, and timed in turns on every shape, with mixed lengths and with full
ones. That with the smallest geometric mean of times becomes the attention's record, of the last
shape and full lengths, unless a schedule from before is faster on full lengths of some shape; its
own from before stays where nothing is faster::

    python benchmarks/portable_records.py database/records database/records \
        --target '{"kind": "llvm", "mcpu": "x86-64-v4"}' --threads 1 \
        --variant 64x64,last --variant 32x64,last --variant 64x128,last --variant 32x64
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prefilltune.database import (
    Entry,
    Finder,
    Provenance,
    RecordStore,
    committed_root,
    schedule_name,
    trace_to_json,
)
from prefilltune.database.dates import date_now
from prefilltune.database.scratch import ScratchFolder
from prefilltune.tuning.backends import backend_of
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.build import build_library
from prefilltune.tuning.building.replaying import Replayed, replay
from prefilltune.tuning.measuring.cpu import tvm_environment
from prefilltune.tuning.measuring.kernels import KEPT_SEED, check, fresh_inputs, time_in_turns
from prefilltune.tuning.measuring.timing import interquartile_range
from prefilltune.tuning.measuring.tvm_import import import_tvm_without_torch
from prefilltune.tuning.measuring.worker import Worker
from prefilltune.tuning.measuring.workers import call_all
from prefilltune.tuning.spaces import SPACES
from prefilltune.tuning.spaces.space import heads_of_a_tile
from prefilltune.tuning.target import ResolvedTarget, vector_lanes, vector_registers
from prefilltune.workloads import TOLERANCE, Case, PrefillShape, PrefillSpec, parse_lengths
from prefilltune.workloads.presets import load_presets

SPACE = SPACES["llvm_fused"]
#: Those of records last.
LENGTHS = (parse_lengths("uniform"), parse_lengths("full"))
BUILD_TIMEOUT = 240.0
#: Part of a time.
NOISE = 0.03


@dataclass(frozen=True)
class Found:
    """A schedule of the space.

    Parameters
    ----------
    variant : Mapping[str, Any]
        Its tiles, and what they are made of.
    trace : Any
        MetaSchedule's JSON; with the same instructions for every mask and score.
    """

    variant: Mapping[str, Any]
    trace: Any

    @classmethod
    def of(cls, entry: Entry) -> Found:
        """That of a record."""
        return cls(entry.provenance.variant, entry.trace)

    def on(self, spec: PrefillSpec, shape: PrefillShape) -> Replayed:
        """The schedule, on the description of a workload; its decisions, if that converts."""
        variant = SPACE.variant_for(spec, self.variant)
        alone = variant != self.variant
        return replay(SPACE, spec, shape, variant, self.trace, decisions_alone=alone)


def specs(head_dim: int | None, *, grouped: bool) -> list[PrefillSpec]:
    """The attentions of the presets in float32, each once; of one head_dim or all.

    Parameters
    ----------
    grouped : bool
        Whether only those of grouped queries.
    """
    presets = load_presets().values()
    found = dict.fromkeys(each for preset in presets for each in preset.specs("float32"))
    of_head_dim = [each for each in found if head_dim in (None, each.head_dim)]
    return [each for each in of_head_dim if each.group_size > 1 or not grouped]


def known(found: Path, target: ResolvedTarget, spec: PrefillSpec, most: int) -> list[Found]:
    """The fastest schedules for a head_dim: the spec's own first, the target's before others."""
    stores = Finder([found, committed_root()]).stores(target.key, backend_of(target.kind).furthest)
    own = str(spec)
    distinct: dict[str, Found] = {}
    for store in stores:
        fits = [
            entry
            for entry in store.entries
            if entry.provenance.space == SPACE.name
            and PrefillSpec.parse(entry.provenance.spec).head_dim == spec.head_dim
        ]
        for entry in sorted(fits, key=lambda each: (each.provenance.spec != own, each.speed)):
            schedule = Found.of(entry)
            name = schedule_name(SPACE.name, schedule.variant, schedule.trace)
            distinct.setdefault(name, schedule)
    return [*distinct.values()][:most]


def first_of(target: ResolvedTarget, spec: PrefillSpec, text: str) -> Found:
    """The first schedule of the variant ``QxKV``, ``QxKV,values`` or ``QxKV,packed`` of the space.

    With ``,last``, that which has the last choice of each that is sampled; with ``,heads``, that
    whose query tiles heads share, where some share keys.
    """
    tiles, *options = text.split(",")
    q_tile, kv_tile = map(int, tiles.split("x"))
    variant = {
        "q_tile": q_tile,
        "kv_tile": kv_tile,
        "packed": "packed" in options or ("values" in options and "values"),
        "registers": vector_registers(target.target),
        "lanes": vector_lanes(target.target),
    }
    if "heads" in options and (heads := heads_of_a_tile(spec, q_tile)) > 1:
        variant["heads"] = heads
    description = SPACE.describe(spec, PrefillShape(1, kv_tile), variant)
    (schedule,) = SPACE.generator(spec, variant).generate_design_space(description)
    instructions, sampled = trace_to_json(schedule.trace)
    choices = [
        [place, len(instructions[place][2][0]) - 1 if "last" in options else 0]
        for place, _ in sampled
    ]
    return Found(variant, [instructions, choices])


@dataclass(frozen=True)
class Prepared:
    """Candidates for an attention's record, built and checked.

    Parameters
    ----------
    spec : PrefillSpec
        The attention.
    candidates : Sequence[Found]
        Those of records from before first, as many as ``before``.
    replayed, paths : dict[PrefillShape, list]
        On the description of each shape, and the library of it, one for each candidate.
    errors : list[float]
        Of each on the last shape.
    """

    spec: PrefillSpec
    candidates: Sequence[Found]
    before: int
    replayed: dict[PrefillShape, list[Replayed]]
    paths: dict[PrefillShape, list[str]]
    errors: list[float]


def prepared(
    spec: PrefillSpec,
    target: ResolvedTarget,
    candidates: Sequence[Found],
    before: int,
    shapes: Sequence[PrefillShape],
    folder: Path,
    runner: Worker,
) -> Prepared:
    """Build and check schedules on every shape."""
    engine = backend_of(target.kind).engine
    ready = Prepared(spec, candidates, before, {}, {}, [])
    for shape in shapes:
        replayed = [each.on(spec, shape) for each in candidates]
        paths = [str(folder / f"{spec}-{shape}-{each}.so") for each in range(len(candidates))]
        calls = [
            (each.module, target.target, path) for each, path in zip(replayed, paths, strict=True)
        ]
        for outcome in call_all(build_library, calls, BUILD_TIMEOUT):
            assert outcome.status == "ok", outcome.detail
        case = Case(spec, shape, LENGTHS[-1])
        inputs = fresh_inputs(case, KEPT_SEED)
        checked = check(engine.check_kernel, case, paths, runner, *inputs)
        ready.replayed[shape], ready.paths[shape] = replayed, paths
        ready.errors[:] = [checked[path].value for path in paths]
        assert max(ready.errors) <= TOLERANCE[spec.dtype], ready.errors
    return ready


def best(ready: Prepared, target: ResolvedTarget, runner: Worker) -> Entry:
    """Time schedules on every shape; the best across them, as a record.

    On no shape slower with full lengths than one of the first ``before`` candidates, but for noise;
    the first where all are.
    """
    spec, candidates = ready.spec, ready.candidates
    means, allowed = [0.0] * len(candidates), set(range(len(candidates)))
    times: list[tuple[float, ...]] = []
    for shape, paths in ready.paths.items():
        medians: list[float] = []
        for lens in LENGTHS:
            case = Case(spec, shape, lens)
            times = time_in_turns(backend_of(target.kind).engine, case, paths, runner)
            medians = [statistics.median(each) for each in times]
            for number, seconds in enumerate(medians):
                means[number] += math.log(seconds) / len(ready.paths) / len(LENGTHS)
        limit = min(medians[: ready.before], default=math.inf) * (1 + NOISE)  # of full lengths
        allowed -= {number for number, seconds in enumerate(medians) if seconds > limit}
    chosen = min(allowed or {0}, key=lambda number: means[number])
    print(
        *(f"{math.exp(each - means[0]):.3f}" for each in means), "of the first's time", flush=True
    )
    shape, seconds = [*ready.paths][-1], times[chosen]
    return ready.replayed[shape][chosen].entry(
        seconds,
        target.target,
        Provenance(
            spec=str(spec),
            shape=str(shape),
            space=SPACE.name,
            variant=dict(candidates[chosen].variant),
            lens=LENGTHS[-1].text,
            median_secs=statistics.median(seconds),
            spread_secs=interquartile_range(seconds),
            max_abs_error=ready.errors[chosen],
            trials=len(candidates),
            seed=0,
            versions=backend_of(target.kind).versions(),
            device=backend_of(target.kind).device(target),
            date=date_now(),
        ),
    )


def records(
    found: Path,
    target: ResolvedTarget,
    asked: Sequence[PrefillSpec],
    shapes: Sequence[PrefillShape],
    most: int,
    variants: Sequence[str],
) -> Iterator[Entry]:
    """A record for each attention."""
    for spec in asked:
        earlier = known(found, target, spec, most)
        candidates = [*earlier, *(first_of(target, spec, each) for each in variants)]
        with ScratchFolder() as folder, Worker(tvm_environment(target.threads)) as runner:
            before = len(earlier)
            ready = prepared(spec, target, candidates, before, shapes, folder, runner)
            entry = best(ready, target, runner)
        of = entry.provenance
        print(f"{target.key} {spec}: {of.median_secs * 1e3:.3f} ms, {of.variant}", flush=True)
        yield entry


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("found", type=Path, help="database of records to begin with")
    parser.add_argument("output", type=Path, help="database that takes the records")
    parser.add_argument("--target", required=True)
    parser.add_argument("--threads", type=int, help="every core when absent")
    parser.add_argument("--shape", action="append", help="1x128 and 1x512 when absent")
    parser.add_argument("--most", type=int, default=1, help="schedules of records to try for each")
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        help="QxKV, QxKV,values, QxKV,packed, with ,last and ,heads",
    )
    parser.add_argument(
        "--grouped", action="store_true", help="attentions of grouped queries alone"
    )
    parser.add_argument("--head-dim", type=int, help="all that presets have when absent")
    options = parser.parse_args()
    import_tvm_without_torch()
    target = resolve_target(options.target)
    target = replace(target, threads=options.threads or target.threads)
    shapes = [PrefillShape.parse(text) for text in options.shape or ("1x128", "1x512")]
    store = RecordStore.open(options.output, target.key, create=True)
    asked = specs(options.head_dim, grouped=options.grouped)
    for entry in records(options.found, target, asked, shapes, options.most, options.variant):
        if entry.record_id not in {each.record_id for each in store.entries}:
            spec = entry.provenance.spec
            store.replace(
                [*(each for each in store.entries if each.provenance.spec != spec), entry]
            )


if __name__ == "__main__":
    main()
