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
from collections.abc import Iterator, Mapping, Sequence
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


#: By what a row calls it: the attention that a kernel computes, and its library.
Kernels = dict[str, tuple[PrefillSpec, str]]


def kernels(
    of: PrefillSpec, shape: PrefillShape, target: ResolvedTarget, folder: Path, runner: Worker
) -> Kernels:
    """Checked libraries of one schedule, by dtype."""
    (found, *_) = known(committed_root(), target, of, 1)
    specs_of = [replace(of, dtype=dtype) for dtype in DTYPES]
    made = {spec.dtype: (spec, found.on(spec, shape).module) for spec in specs_of}
    return checked_libraries(made, Case(of, shape, LENGTHS[-1]), target, folder, runner)


def checked_libraries(
    made: Mapping[str, tuple[PrefillSpec, Any]],
    case: Case,
    target: ResolvedTarget,
    folder: Path,
    runner: Worker,
) -> Kernels:
    """Libraries of scheduled modules, each right on inputs of a case in its own spec."""
    paths = {name: str(folder / f"{case.spec}-{case.shape}-{name}.so") for name in made}
    calls = [(module, target.target, paths[name]) for name, (_, module) in made.items()]
    for built in call_all(build_library, calls, BUILD_TIMEOUT):
        assert built.status == "ok", built.detail
    check_kernel = backend_of(target.kind).engine.check_kernel
    for name, (spec, _) in made.items():
        own, path = replace(case, spec=spec), paths[name]
        checked = check(check_kernel, own, [path], runner, *fresh_inputs(own, COMPARED_SEED))[path]
        assert checked.status == "ok", (spec, checked)
        assert checked.value <= TOLERANCE[spec.dtype], (spec, checked)
    return {name: (spec, paths[name]) for name, (spec, _) in made.items()}


def in_turns(
    case: Case, made: Kernels, target: ResolvedTarget, runner: Worker, rounds: int
) -> dict[str, tuple[float, ...]]:
    """Seconds of each kernel on the lengths of a case, one for each of its rounds."""
    time_kernel = backend_of(target.kind).engine.time_kernel
    lengths = (case.shape, case.batches(), case.seed)
    timers = [
        partial(call, runner, time_kernel, path, spec, *lengths) for spec, path in made.values()
    ]
    return dict(zip(made, interleave(timers, rounds, SECONDS), strict=True))


def milliseconds(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Medians."""
    return {name: round(statistics.median(each) * 1e3, 4) for name, each in times.items()}


def rows(target: ResolvedTarget, shapes: Sequence[PrefillShape]) -> Iterator[dict[str, Any]]:
    """Times of every attention, shape and kind of lengths."""
    for of in specs(None):
        with ScratchFolder() as folder, Worker(tvm_environment(target.threads)) as runner:
            for shape in shapes:
                made = kernels(of, shape, target, folder, runner)
                for lens in LENGTHS:
                    times = in_turns(Case(of, shape, lens), made, target, runner, ROUNDS)
                    row = {"spec": str(of), "shape": str(shape), "lens": lens.text}
                    yield {**row, "ms": milliseconds(times)}


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
