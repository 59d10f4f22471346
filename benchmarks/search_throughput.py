"""Trials a minute: this project's search against ``tune_tir`` with TVM's own builder and runner.

Both search the same variant of the same space for the same number of trials, one after the other
in processes of their own::

    python benchmarks/search_throughput.py --trials 32 > docs/measurements/search_throughput.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from prefilltune.tuning.backends import backend_of
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.search.search import Search
from prefilltune.tuning.search.state import Limit
from prefilltune.tuning.search.trial_log import TrialLog
from prefilltune.tuning.spaces.llvm_fused import LlvmFused
from prefilltune.workloads import Case, PrefillShape, PrefillSpec, parse_lengths

SPEC, SHAPE = PrefillSpec(8, 8, 64, "float32"), PrefillShape(4, 128)
VARIANT = {"q_tile": 32, "kv_tile": 64, "packed": False}


class OneVariant(LlvmFused):
    """The variant that both searches get."""

    def variants(self, *_: object) -> tuple[dict[str, int | bool], ...]:
        return (VARIANT,)


def ours(trials: int) -> dict[str, float]:
    """Run the search of ``prefilltune tune`` on one variant."""
    target = resolve_target("llvm")
    case = Case(SPEC, SHAPE, parse_lengths("full"))
    log = TrialLog(Path(tempfile.mkdtemp()) / "log.jsonl", {})
    start = time.monotonic()
    with Search(case, target, [OneVariant()], log, lambda _: None) as search:
        state = search.run(Limit(trials=trials))
    result = _result(time.monotonic() - start, state.trials, state.best_seconds)
    return {**result, "first_measured_seconds": round(state.first_measured, 1)}


def tune_tir(trials: int) -> dict[str, float]:
    """Run TVM's ``tune_tir`` with its default builder, runner and search strategy."""
    from tvm.s_tir import meta_schedule as ms

    space = LlvmFused()
    module = space.describe(SPEC, SHAPE, VARIANT)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        database = ms.tir_integration.tune_tir(
            module,
            resolve_target("llvm").target,
            folder,
            max_trials_global=trials,
            num_trials_per_iter=min(trials, 64),
            space=space.generator(SPEC, VARIANT),
            seed=1,
        )
        seconds = time.monotonic() - start
        records = database.get_all_tuning_records()
    times = [float(secs) for record in records for secs in record.run_secs or ()]
    return _result(seconds, len(records), min(times))


def _result(seconds: float, trials: int, best: float) -> dict[str, float]:
    return {
        "seconds": round(seconds, 1),
        "trials": trials,
        "trials_per_minute": round(trials / seconds * 60, 1),
        "best_ms": round(best * 1e3, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--only", choices=["ours", "tune_tir"])
    arguments = parser.parse_args()
    if arguments.only:
        result = {"ours": ours, "tune_tir": tune_tir}[arguments.only](arguments.trials)
        print(json.dumps(result))
        return
    found = {}
    for name in ("ours", "tune_tir"):
        command = [sys.executable, __file__, "--trials", str(arguments.trials), "--only", name]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
    ratio = found["ours"]["trials_per_minute"] / found["tune_tir"]["trials_per_minute"]
    print(
        json.dumps(
            {
                "spec": str(SPEC),
                "shape": str(SHAPE),
                "variant": VARIANT,
                "device": backend_of("llvm").device_name(),
                "threads": resolve_target("llvm").threads,
                "versions": backend_of("llvm").versions(),
                **found,
                "ratio": round(ratio, 2),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
