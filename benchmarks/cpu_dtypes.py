"""bfloat16 and float16 beside float32 on a CPU: each portable record's schedule, in turns.

Kernels of the three dtypes are made of the record that serves the attention of each preset on a
level, as a build would, and checked; each case is timed with full lengths and mixed (a quarter to
full)::

    python benchmarks/cpu_dtypes.py --target '{"kind": "llvm", "mcpu": "x86-64-v3"}' --threads 2 \
        --output docs/measurements/cpu_dtypes.json

The file takes one entry for each target, beside those that it has.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from portable_records import BUILD_TIMEOUT, LENGTHS, known, specs

from prefilltune.database import committed_root
from prefilltune.database.scratch import ScratchFolder
from prefilltune.tuning.backends import backend_of
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.build import build_library
from prefilltune.tuning.measuring.cpu import tvm_environment
from prefilltune.tuning.measuring.kernels import COMPARED_SEED, call, check, fresh_inputs
from prefilltune.tuning.measuring.timing import interleave
from prefilltune.tuning.measuring.tvm_import import import_tvm_without_torch
from prefilltune.tuning.measuring.worker import Worker
from prefilltune.tuning.measuring.workers import call_all
from prefilltune.tuning.target import ResolvedTarget
from prefilltune.workloads import DTYPES, TOLERANCE, Case, PrefillShape, PrefillSpec

ROUNDS, SECONDS = 9, 0.03


def kernels(
    of: PrefillSpec, shape: PrefillShape, target: ResolvedTarget, folder: Path, runner: Worker
) -> dict[PrefillSpec, str]:
    """Checked libraries of one schedule, by the attention in each dtype."""
    (found, *_) = known(committed_root(), target, of, 1)
    paths = {
        spec: str(folder / f"{spec}-{shape}.so")
        for spec in (replace(of, dtype=dtype) for dtype in DTYPES)
    }
    calls = [(found.on(spec, shape).module, target.target, path) for spec, path in paths.items()]
    for built in call_all(build_library, calls, BUILD_TIMEOUT):
        assert built.status == "ok", built.detail
    check_kernel = backend_of(target.kind).engine.check_kernel
    for spec, path in paths.items():
        case = Case(spec, shape, LENGTHS[-1])
        inputs = fresh_inputs(case, COMPARED_SEED)
        checked = check(check_kernel, case, [path], runner, *inputs)[path]
        assert checked.status == "ok", (spec, checked)
        assert checked.value <= TOLERANCE[spec.dtype], (spec, checked)
    return paths


def times(
    case: Case, paths: dict[PrefillSpec, str], target: ResolvedTarget, runner: Worker
) -> dict[str, float]:
    """Milliseconds of each dtype's kernel on the lengths of a case."""
    time_kernel = backend_of(target.kind).engine.time_kernel
    lengths = (case.shape, case.batches(), case.seed)
    timers = [
        partial(call, runner, time_kernel, path, spec, *lengths) for spec, path in paths.items()
    ]
    found = interleave(timers, ROUNDS, SECONDS)
    return {
        spec.dtype: round(statistics.median(seconds) * 1e3, 4)
        for spec, seconds in zip(paths, found, strict=True)
    }


def rows(target: ResolvedTarget, shapes: Sequence[PrefillShape]) -> Iterator[dict[str, Any]]:
    """Times of every attention, shape and kind of lengths."""
    for of in specs(None):
        with ScratchFolder() as folder, Worker(tvm_environment(target.threads)) as runner:
            for shape in shapes:
                paths = kernels(of, shape, target, folder, runner)
                for lens in LENGTHS:
                    ms = times(Case(of, shape, lens), paths, target, runner)
                    yield {"spec": str(of), "shape": str(shape), "lens": lens.text, "ms": ms}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="llvm")
    parser.add_argument("--threads", type=int, help="every core when absent")
    parser.add_argument("--shape", action="append", help="1x512 and 4x128 when absent")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    import_tvm_without_torch()
    resolved = resolve_target(options.target)
    target = replace(resolved, threads=options.threads or resolved.threads)
    shapes = [PrefillShape.parse(text) for text in options.shape or ("1x512", "4x128")]
    backend = backend_of(target.kind)
    found = json.loads(options.output.read_text()) if options.output.exists() else {}
    of_target = found[str(target.key)] = {
        "device": backend.device(target),
        "versions": backend.versions(),
        "rows": [],
    }
    for row in rows(target, shapes):
        of_target["rows"].append(row)
        print(*row.values(), flush=True)
        options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
