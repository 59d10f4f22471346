"""Trials a minute of a plan on one GPU of a host, and on several.

    python benchmarks/gpu_plan_scale.py --devices 0 --devices 1,2 > gpu_plan_scale.json

Plans of eight shapes from nothing, one for each ``--devices``, at the same time: give each GPUs of
its own, on a host with cores enough for all. A plan has as many searches at once as GPUs.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from plan_scale import timed_plan

from prefilltune.tuning.backends import backend_of
from prefilltune.tuning.measuring.tvm_import import import_tvm_without_torch
from prefilltune.tuning.target import usable_cores

MODEL = "bge-base"
SHAPES = ("32x128", "16x256", "32x256", "8x512", "32x512", "8x1024", "4x2048", "2x4096")


def run_plan(devices: str, trials: int) -> dict[str, Any]:
    """A plan of :data:`SHAPES` on GPUs of this machine."""
    plan = timed_plan(
        f'models = ["{MODEL}"]\nshapes = {json.dumps(SHAPES)}\nbudget = "1h"\n'
        f"trials = {trials}\nslice = {trials}\nsearches = {len(devices.split(','))}\n"
        f'[[targets]]\ntarget = "cuda"\ndevices = "{devices}"\n'
    )
    a_minute = round(60 * plan["trials"] / plan["seconds"], 1)
    return {"devices": devices, **plan, "trials_a_minute": a_minute}


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
