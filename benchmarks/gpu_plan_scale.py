"""Trials a minute of a plan on one GPU of a host, and on several.

    python benchmarks/gpu_plan_scale.py --devices 0 --devices 1,2 > gpu_plan_scale.json

Plans of eight shapes from nothing, one for each ``--devices``, at the same time: give each GPUs of
its own, on a host with cores enough for all.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from prefilltune.tuning.backends import backend_of
from prefilltune.tuning.measuring.tvm_import import import_tvm_without_torch
from prefilltune.tuning.target import usable_cores

MODEL = "bge-base"
SHAPES = ("32x128", "16x256", "32x256", "8x512", "32x512", "8x1024", "4x2048", "2x4096")


def run_plan(devices: str, trials: int) -> dict[str, Any]:
    """A plan from the start of its command to its end."""
    with tempfile.TemporaryDirectory() as folder:
        path, root = Path(folder) / "scale.toml", Path(folder) / "database"
        path.write_text(
            f'models = ["{MODEL}"]\nshapes = {json.dumps(SHAPES)}\nbudget = "1h"\n'
            f"trials = {trials}\nslice = {trials}\n"
            f'[[targets]]\ntarget = "cuda"\ndevices = "{devices}"\n'
        )
        command = [sys.executable, "-m", "prefilltune.tuning", "plan", "run", str(path)]
        start = time.monotonic()
        done = subprocess.run(
            [*command, "--database", str(root)], stdout=subprocess.PIPE, text=True, check=False
        )
        seconds = time.monotonic() - start
        print(done.stdout, file=sys.stderr)
        logs = [log.read_text().splitlines() for log in root.glob("*/trials/*.jsonl")]
    made = sum(map(len, logs))
    return {
        "devices": devices,
        "exit_code": done.returncode,
        "workloads": len(logs),
        "trials": made,
        "seconds": round(seconds, 1),
        "trials_a_minute": round(60 * made / seconds, 1),
    }


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=12, help="of each workload")
    parser.add_argument("--devices", action="append", required=True, metavar="N,N,...")
    options = parser.parse_args()
    import_tvm_without_torch()
    with ThreadPoolExecutor() as pool:
        plans = list(pool.map(lambda devices: run_plan(devices, options.trials), options.devices))
    result = {
        "model": MODEL,
        "shapes": SHAPES,
        "device": backend_of("cuda").device_name(),
        "cores": usable_cores(),
        "versions": backend_of("cuda").versions(),
        "plans": plans,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
