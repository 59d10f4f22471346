"""What the choice of a kernel at the call costs, and whether the right one is chosen.

At every tuned shape, the kernel for every shape, which has one for these lengths inside, against
the one for that shape alone. At lengths between them, on each tuned batch, against every kernel
that it could have chosen: the best of all, and the better of the two neighbours in length. All are
timed in turns.

    python benchmarks/dispatch.py --model bge-base > docs/measurements/dispatch-<target>.json

The boundaries are those of the database: run `prefilltune sweep` first.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from prefilltune.database import Finder, Match, Tier, committed_root
from prefilltune.tuning.backends import backend_of
from prefilltune.tuning.measuring.tvm_import import import_tvm_without_torch
from prefilltune.workloads import (
    PrefillShape,
    PrefillSpec,
    parse_lengths,
    preset,
)

ROUNDS = 9


def timed(case: Any, kind: str, paths: Mapping[str, str], worker: Any) -> dict[str, float]:
    """Median seconds a call of libraries, in turns."""
    from prefilltune.tuning.backends import backend_of
    from prefilltune.tuning.measuring.kernels import time_in_turns

    times = time_in_turns(backend_of(kind).engine, case, [*paths.values()], worker)
    return dict(zip(paths, map(statistics.median, times), strict=True))


def lengths_between(tuned: list[int], count: int) -> list[int]:
    """Lengths evenly spread by their ratio, from half the shortest to 1.5 times the longest."""
    low, high = tuned[0] / 2, tuned[-1] * 1.5
    step = (high / low) ** (1 / (count - 1))
    return sorted({round(low * step**index) for index in range(count)})


def neighbours(length: int, batch: int, found: Mapping[str, Match]) -> set[str]:
    """The records tuned at the next lengths below and above, on the same batch if there are any."""
    shapes = {key: PrefillShape.parse(each.entry.provenance.shape) for key, each in found.items()}
    same = {key: shape for key, shape in shapes.items() if shape.batch == batch} or shapes
    sides = (
        [shape.num_kv for shape in same.values() if shape.num_kv <= length],
        [shape.num_kv for shape in same.values() if shape.num_kv >= length],
    )
    nearest = {max(sides[0], default=None), min(sides[1], default=None)}
    return {key for key, shape in same.items() if shape.num_kv in nearest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="llvm")
    parser.add_argument("--model", default="bge-base")
    parser.add_argument("--dtype", default="")
    parser.add_argument("--database", type=Path, action="append")
    parser.add_argument("--lens", default="full")
    parser.add_argument("--count", type=int, default=40, help="of lengths on each batch")
    options = parser.parse_args()

    import_tvm_without_torch()
    import tvm

    from prefilltune.tuning.backends.resolving import resolve_target
    from prefilltune.tuning.building.replaying import replay_record
    from prefilltune.tuning.comparing.bench import Libraries
    from prefilltune.tuning.deployment import (
        Leaf,
        Serving,
        candidates,
        choose_serving,
        serving_kernel,
    )
    from prefilltune.tuning.measuring.cpu import tvm_environment
    from prefilltune.tuning.measuring.worker import Worker
    from prefilltune.workloads import Case

    target = resolve_target(options.target)
    usual = "float16" if target.kind == "cuda" else "float32"
    spec: PrefillSpec = preset(options.model).spec(options.dtype or usual)
    roots = [*(options.database or ()), committed_root()]
    finder = Finder(roots)
    found = candidates(finder, [target.key], spec)
    serving = choose_serving(spec, target, finder)
    lens = parse_lengths(options.lens)

    def module(kernel: Any) -> Any:
        return tvm.IRModule({"main": kernel.with_attr("global_symbol", "main")})

    def alone(record: str) -> Any:
        only = Serving(spec, target.key, {record: found[record]}, Leaf(record))
        return module(serving_kernel(only, target))

    with Worker(tvm_environment(target.threads), frozen_when_idle=True) as worker:
        libraries = Libraries(worker, target)
        dispatched = libraries.of("dispatched", lambda: module(serving_kernel(serving, target)))
        every = {record: libraries.of(record, partial(alone, record)) for record in found}
        shapes = {PrefillShape.parse(each.entry.provenance.shape) for each in found.values()}
        at_tuned = []
        for shape in sorted(shapes, key=str):
            best = finder.find(target.key, spec, shape, accept=Tier.EXACT)
            static = libraries.of(
                f"static-{shape}", partial(replay_record, best.entry, target.kind)
            )
            case = Case(spec, shape, lens)
            ms = timed(case, target.kind, {"static": static, "dispatched": dispatched}, worker)
            at_tuned.append(
                {"shape": str(shape), "static_ms": ms["static"] * 1e3,
                 "over_static": ms["dispatched"] / ms["static"]}
            )  # fmt: skip
        between = []
        for batch in sorted({shape.batch for shape in shapes}):
            tuned = sorted({shape.num_kv for shape in shapes if shape.batch == batch})
            for length in lengths_between(tuned, options.count):
                case = Case(spec, PrefillShape(batch, length), lens)
                ms = timed(case, target.kind, {**every, "dispatched": dispatched}, worker)
                near = min(ms[record] for record in neighbours(length, batch, found))
                between.append(
                    {"shape": str(case.shape), "ms": ms["dispatched"] * 1e3,
                     "over_best": ms["dispatched"] / min(ms[record] for record in every),
                     "over_neighbour": ms["dispatched"] / near}
                )  # fmt: skip
        libraries.close()

    def geometric(name: str) -> float:
        return math.exp(statistics.fmean(math.log(each[name]) for each in between))

    print(
        json.dumps(
            {
                "spec": str(spec),
                "lens": lens.text,
                "device": backend_of(target.kind).device(target),
                "versions": backend_of(target.kind).versions(),
                "plan": serving.as_data(),
                "worst_over_static": max(each["over_static"] for each in at_tuned),
                "worst_over_best": max(each["over_best"] for each in between),
                "mean_over_best": geometric("over_best"),
                "worst_over_neighbour": max(each["over_neighbour"] for each in between),
                "at_tuned_shapes": at_tuned,
                "between": between,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
