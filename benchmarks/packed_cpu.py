"""Packed sequences beside padded batches on a CPU: kernels for every size, as a build makes them.

    python benchmarks/packed_cpu.py --target '{"kind": "llvm", "mcpu": "x86-64-v4"}' --threads 2 \
        --output docs/measurements/packed-cpu.json

Of the records that serve a preset's attention on a level come four kernels: for packed sequences,
for padded batches, for padded batches whose padding of the output stays untouched, all of every
size, and one for padded batches of the shape alone. They are checked, and timed in turns on the
same lengths. Ratios are medians of the rounds' own.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from cpu_dtypes import Kernels, checked_libraries, in_turns, milliseconds

from prefilltune.database import Finder, Tier, committed_root
from prefilltune.database.scratch import ScratchFolder
from prefilltune.tuning.backends import backend_of
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.finding import find_record
from prefilltune.tuning.building.replaying import replay_record
from prefilltune.tuning.measuring.cpu import tvm_environment
from prefilltune.tuning.measuring.tvm_import import import_tvm_without_torch
from prefilltune.tuning.measuring.worker import Worker
from prefilltune.tuning.target import ResolvedTarget
from prefilltune.workloads import Case, PrefillShape, PrefillSpec, parse_lengths, preset
from prefilltune.workloads.sizes import sizes_at_call

PRESETS = (
    "minilm-l6",
    "bge-base",
    "modernbert-base:local",
    "gte-qwen2-1.5b",
    "qwen3-embedding-0.6b",
)
RECORDS = Finder([committed_root()])
DTYPES = ("float32", "bfloat16")
SHAPES = tuple(map(PrefillShape.parse, ("1x512", "4x128", "16x256")))
LENGTHS = tuple(map(parse_lengths, ("full", "uniform:0.125-1")))
ROUNDS = 15


def kernels(
    of: PrefillSpec, shape: PrefillShape, target: ResolvedTarget, folder: Path, runner: Worker
) -> Kernels:
    """Checked libraries, of the records that a build takes."""
    untouched = of.as_called(padding_output="untouched")
    packed = of.as_called(layout="packed")
    made = {
        "packed": (packed, sizes_at_call(packed)),
        "padded": (of, sizes_at_call(of)),
        "padded_untouched": (untouched, sizes_at_call(untouched)),
        "padded_of_the_shape": (of, shape),
    }
    modules = {}
    for name, (spec, sizes) in made.items():
        match = find_record(RECORDS, target, spec, shape, accept=Tier.PORTABLE)
        modules[name] = (spec, replay_record(match.entry, sizes, spec))
    return checked_libraries(modules, Case(of, shape, LENGTHS[-1]), target, folder, runner)


def timed(case: Case, made: Kernels, target: ResolvedTarget, runner: Worker) -> dict[str, Any]:
    """Milliseconds of each kernel, and what packed takes of the time of each other one."""
    found = in_turns(case, made, target, runner, ROUNDS)
    packed = found["packed"]
    return {
        "ms": milliseconds(found),
        "packed_over": {
            name: round(statistics.median(a / b for a, b in zip(packed, each, strict=False)), 3)
            for name, each in found.items()
            if name != "packed"
        },
    }


def rows(target: ResolvedTarget) -> Iterator[dict[str, Any]]:
    """Times of every attention, dtype, shape and kind of lengths."""
    for name in PRESETS:
        for dtype in DTYPES:
            (of,) = preset(name).specs(dtype)
            with ScratchFolder() as folder, Worker(tvm_environment(target.threads)) as runner:
                for shape in SHAPES:
                    made = kernels(of, shape, target, folder, runner)
                    for lens in LENGTHS:
                        found = timed(Case(of, shape, lens), made, target, runner)
                        yield {"spec": str(of), "shape": str(shape), "lens": lens.text, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="llvm")
    parser.add_argument("--threads", type=int, help="every core when absent")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    import_tvm_without_torch()
    resolved = resolve_target(options.target)
    target = replace(resolved, threads=options.threads or resolved.threads)
    backend = backend_of(target.kind)
    found: dict[str, Any] = {
        "target": str(target.key),
        "threads": target.threads,
        "device": backend.device(target),
        "versions": backend.versions(),
        "rows": [],
    }
    for row in rows(target):
        found["rows"].append(row)
        print(*row.values(), flush=True)
        options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
