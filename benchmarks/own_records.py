"""Does a device need records of its own? Its best ones beside those of a near device, in turns.

    python benchmarks/tune_presets.py --target cuda --database own --minutes 9
    python benchmarks/own_records.py --target cuda --database own --of cuda-sm_90a-h100 \\
        --output own_records.json

builds the best record of each case that both have, those of the near device out of the committed
database, and times them on the device at hand, each case's two in turns. A case whose best records
are one schedule has no times.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prefilltune.database import Entry, RecordStore, TargetKey, committed_root, schedule_name
from prefilltune.database.dates import date_now
from prefilltune.database.scratch import ScratchFolder
from prefilltune.tuning.backends import backend_of
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.build import build_library
from prefilltune.tuning.building.replaying import replay_record
from prefilltune.tuning.measuring.cpu import tvm_environment
from prefilltune.tuning.measuring.kernels import KEPT_SEED, check, fresh_inputs, time_in_turns
from prefilltune.tuning.measuring.worker import Worker
from prefilltune.tuning.measuring.workers import call_all
from prefilltune.tuning.target import ResolvedTarget
from prefilltune.workloads import TOLERANCE, Case, PrefillShape, PrefillSpec, parse_lengths
from prefilltune.workloads.sizes import measured_sizes

BUILD_TIMEOUT = 240.0

#: Spec, shape and lengths, as records have them.
Key = tuple[str, str, str]


def best(root: Path, key: TargetKey) -> dict[Key, Entry]:
    """The fastest record of each case of a target."""
    found: dict[Key, Entry] = {}
    for entry in sorted(RecordStore.open(root, key).entries, key=lambda each: each.speed):
        of = entry.provenance
        found.setdefault((of.spec, of.shape, of.lens), entry)
    return found


def is_one_schedule(entries: Sequence[Entry]) -> bool:
    """Whether the records of a case differ in nothing but their times."""
    made = ((each.provenance, each.trace) for each in entries)
    return len({schedule_name(of.space, of.variant, trace) for of, trace in made}) == 1


def built(entries: Sequence[Entry], case: Case, target: ResolvedTarget, folder: Path) -> list[str]:
    """Paths of their kernels for a case."""
    sizes = measured_sizes(case.spec, case.shape)
    modules = [replay_record(each, sizes, case.spec) for each in entries]
    paths = [str(folder / f"{each.record_id}-{place}.so") for place, each in enumerate(entries)]
    calls = [(module, target.target, path) for module, path in zip(modules, paths, strict=True)]
    for outcome in call_all(build_library, calls, BUILD_TIMEOUT):
        assert outcome.status == "ok", outcome.detail
    return paths


def compared(
    own: dict[Key, Entry], near: dict[Key, Entry], target: ResolvedTarget
) -> Iterator[dict[str, Any]]:
    """Of each case that both have: who computes it, and medians in seconds."""
    engine = backend_of(target.kind).engine
    with Worker(tvm_environment(target.threads)) as runner:
        for key in sorted(own.keys() & near.keys()):
            pair = own[key], near[key]
            row: dict[str, Any] = {
                "case": list(key),
                "own": dict(pair[0].provenance.variant),
                "near": dict(pair[1].provenance.variant),
            }
            if not is_one_schedule(pair):
                spec, shape, lens = key
                case = Case(PrefillSpec.parse(spec), PrefillShape.parse(shape), parse_lengths(lens))
                with ScratchFolder() as folder:
                    paths = built(pair, case, target, folder)
                    checked = check(
                        engine.check_kernel, case, paths, runner, *fresh_inputs(case, KEPT_SEED)
                    )
                    errors = [checked[path].value for path in paths]
                    assert max(errors) <= TOLERANCE[case.spec.dtype], (key, errors)
                    times = time_in_turns(engine, case, paths, runner)
                row["seconds"] = [statistics.median(each) for each in times]
            yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="cuda")
    parser.add_argument("--threads", type=int, help="every core when absent")
    parser.add_argument("--database", type=Path, required=True, help="of records of the device")
    parser.add_argument("--of", type=TargetKey.parse, required=True, help="the near device's key")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    target = resolve_target(options.target, options.threads)
    backend = backend_of(target.kind)
    own, near = best(options.database, target.key), best(committed_root(), options.of)
    result: dict[str, Any] = {
        "target": str(target.key),
        "of": str(options.of),
        "device": backend.device(target),
        "versions": backend.versions(),
        "date": date_now(),
        "cases": [],
    }
    for row in compared(own, near, target):
        result["cases"].append(row)
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        mine, theirs = row.get("seconds", (1.0, 1.0))
        print(*row["case"], f"{theirs / mine:.3f}" if "seconds" in row else "same", flush=True)
    speeds = [
        each["seconds"][1] / each["seconds"][0] for each in result["cases"] if "seconds" in each
    ]
    if speeds:
        mean = math.exp(statistics.mean(map(math.log, speeds)))
        print(f"{len(speeds)} of {len(result['cases'])} differ, own are {mean:.3f} times as fast")


if __name__ == "__main__":
    main()
