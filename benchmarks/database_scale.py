"""How long a database of 100,000 records takes to open, and to answer a look-up.

The records are copies of a real one with other tile sizes, 500 on each of 200 workloads::

    python benchmarks/database_scale.py > docs/measurements/database_scale.json
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from prefilltune.database import (
    Entry,
    Finder,
    RecordStore,
    TargetKey,
    Tier,
    committed_root,
    record_id,
)
from prefilltune.tuning.backends import backend_of
from prefilltune.tuning.measuring.tvm_import import import_tvm_without_torch
from prefilltune.workloads import PrefillShape, PrefillSpec

KEY = TargetKey("llvm", "znver4", "2c")
SPECS = [PrefillSpec(heads, heads, 64, "float32") for heads in (4, 8, 12, 16, 32)]
SHAPES = [
    PrefillShape(batch, length)
    for batch, length in itertools.product((1, 2, 4, 8, 16, 32, 64, 128), (64, 128, 256, 512, 1024))
]
WORKLOAD_BYTES = 78_000
RECORD_BYTES = 5_000
LOOKUPS = 1000


def records(count: int) -> Iterator[Entry]:
    """Realistic records: lines of about 5 KB on workloads of about 78 KB."""
    draw = random.Random(0)
    model = RecordStore.open(committed_root(), KEY).entries[0]
    cases = list(itertools.product(SPECS, SHAPES))
    texts = [
        (str(spec) + str(shape) + model.workload_line[1])[:WORKLOAD_BYTES] for spec, shape in cases
    ]
    trace = copy.deepcopy(model.trace)
    while len(json.dumps(trace)) > RECORD_BYTES:
        trace[0].pop()
    for number in range(count):
        spec, shape = cases[number % len(cases)]
        hash_ = str(2**60 + number % len(cases))
        own = [trace[0], [[0, [number, 1 + number % 7]]]]
        secs = shape.batch * shape.qo_len * draw.uniform(1e-6, 1e-5)
        origin = replace(
            model.provenance, spec=str(spec), shape=str(shape), median_secs=secs,
            spread_secs=secs * 0.02, lens=draw.choice(("full", "uniform")),
        )  # fmt: skip
        yield replace(
            model,
            record_id=record_id(hash_, own),
            workload_line=(hash_, texts[number % len(cases)]),
            trace=own,
            run_secs=tuple(secs * draw.uniform(0.98, 1.02) for _ in range(10)),
            provenance=origin,
        )


def opened(root: Path) -> dict[str, float]:
    """Open a database in this process, and look things up."""
    start, cpu_start = time.perf_counter(), time.process_time()
    finder = Finder([root])
    finder.find(KEY, SPECS[0], SHAPES[0])
    first, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    draw = random.Random(1)
    times = []
    for number in range(LOOKUPS):
        spec, shape = draw.choice(SPECS), draw.choice(SHAPES)
        lens = draw.choice((None, "full", "uniform"))
        if number % 2:
            shape = PrefillShape(shape.batch, shape.qo_len + 3)
        start = time.perf_counter()
        finder.find(KEY, spec, shape, lens=lens, accept=Tier.NEAREST_SHAPE)
        times.append(time.perf_counter() - start)
    return {
        "open_and_first_lookup_s": round(first, 3),
        "open_and_first_lookup_cpu_s": round(cpu, 3),
        "lookup_median_ms": round(statistics.median(times) * 1e3, 3),
        "lookup_p99_ms": round(statistics.quantiles(times, n=100)[98] * 1e3, 3),
        "lookup_max_ms": round(max(times) * 1e3, 3),
    }


def opened_elsewhere(root: Path) -> dict[str, float]:
    """The same in a fresh process, its imports left out."""
    command = [sys.executable, __file__, "--open", str(root)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="for the database; temporary when absent")
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.open:
        print(json.dumps(opened(arguments.open)))
        return
    import_tvm_without_torch()  # which names the compiler
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        root = Path(folder)
        store = RecordStore.open(root, KEY, create=True)
        start = time.perf_counter()
        store.replace(records(arguments.records))
        written = time.perf_counter() - start
        time.sleep(3)  # files that changed just now get no index
        index = store.folder / ".index"
        without: list[dict[str, float]] = []
        for _ in range(arguments.repeats):
            index.unlink(missing_ok=True)
            without.append(opened_elsewhere(root))
        with_index = [opened_elsewhere(root) for _ in range(arguments.repeats)]
        start = time.perf_counter()
        problems = RecordStore.open(root, KEY).problems
        checked = time.perf_counter() - start
        sizes = {path.name: path.stat().st_size for path in sorted(store.folder.iterdir())}
    print(
        json.dumps(
            {
                "records": arguments.records,
                "workloads": len(SPECS) * len(SHAPES),
                "bytes": sizes,
                "device": backend_of("llvm").device_name(),
                "load_average": os.getloadavg()[0],
                "versions": backend_of("llvm").versions(),
                "write_s": round(written, 1),
                "open_without_index": _median(without),
                "open_with_index": _median(with_index),
                "parse_every_record_s": round(checked, 1),
                "problems": len(problems),
            },
            indent=2,
        )
    )


def _median(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


if __name__ == "__main__":
    main()
