"""What only a GPU can tell: are kernels right, and do the sanitizers find anything in them.

    python benchmarks/gpu_checks.py --output docs/measurements/gpu_checks.json

Runs ``tests/gpu``, and beside them kernels of every CUDA space and way of pipelining under
compute-sanitizer's memcheck and racecheck, and writes what came of it with device, driver and
versions.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from prefilltune.tuning.backends import backend_of
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.build import build_library
from prefilltune.tuning.search.arms import Arm
from prefilltune.tuning.spaces import SPACES
from prefilltune.tuning.target import ResolvedTarget
from prefilltune.workloads import Case, PrefillShape, PrefillSpec, parse_lengths

SHAPE = PrefillShape(2, 300)
_CAUSAL = {"padding": "left", "window": (None, 0)}
_CHOSEN = {"window": (40, 9), "softcap": 5.0, "bias": "relative"}
# What kernels are made of differs by all of these, and by head dims that tensor cores do not take.
SPECS = {
    space: [
        PrefillSpec(2, 1, head_dim, dtype, **fields)
        for head_dim, fields in (
            (64, _CAUSAL),
            (64, _CHOSEN),
            (odd, _CHOSEN),
            (64, {**_CAUSAL, "padding_output": "untouched"}),
            (64, {"layout": "packed", "window": (None, 0)}),
        )
    ]
    for space, dtype, odd in (
        ("cuda_wgmma", "float16", 40),
        ("cuda_mma", "float16", 45),
        ("cuda_simt", "float32", 45),
    )
}
TOOLS = ("memcheck", "racecheck")
_SOME = 8
# That a persistent grid is for: fewer than there are tiles, so that a block computes several.
_MULTIPROCESSORS = 3
# What variants say besides sizes.
_STRUCTURE = (
    *("overlap", "ring", "exchange", "alternate"),
    *("persistent", "producer", "halves", "heads", "aligned"),
)
_AT_A_TIME = os.cpu_count() or 1
_TIMEOUT = 300


def main() -> None:
    """Run everything, or with ``--launch`` one kernel once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--launch", nargs=2, metavar=("LIBRARY", "SPEC"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.launch:
        _launch(*arguments.launch)
        return
    target = resolve_target("cuda")
    found: dict[str, Any] = {
        "device": backend_of("cuda").device_name(),
        "versions": backend_of("llvm").versions(),
        "tests": {},
        "sanitizer": [],
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        ThreadPoolExecutor(_AT_A_TIME) as pool,
        # A fresh process each: what builds would otherwise hold the interpreter that waits here.
        ProcessPoolExecutor(_AT_A_TIME, multiprocessing.get_context("spawn")) as builders,
    ):
        tests = pool.submit(_tests)
        building = [
            builders.submit(_build, *structure, f"{folder}/{number}")
            for number, structure in enumerate(_structures(target))
        ]
        running = [
            pool.submit(_sanitized, row, path)
            for done in as_completed(building)
            for row, path in done.result()
        ]
        for done in as_completed(running):
            found["sanitizer"].append(done.result())
            print(json.dumps(found["sanitizer"][-1]), flush=True)
            _keep(found, arguments.output)  # what there is, should the machine be taken away
        found["sanitizer"].sort(key=lambda row: (row["space"], row["spec"], str(row["variant"])))
        found["tests"] = tests.result()
    _keep(found, arguments.output)
    if not arguments.output:
        print(json.dumps(found, indent=1))


def _keep(found: dict[str, Any], path: Path | None) -> None:
    if path:
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _structures(target: ResolvedTarget) -> Iterator[tuple[str, PrefillSpec, dict[str, Any]]]:
    """One variant of every space and way of pipelining, for each kind of spec."""
    for space, spec in ((space, spec) for space, specs in SPECS.items() for spec in specs):
        seen = set()
        for variant in map(dict, SPACES[space].variants(spec, SHAPE, target)):
            if "persistent" in variant:
                variant["persistent"] = _MULTIPROCESSORS
            structure = tuple(variant.get(key) for key in _STRUCTURE)
            if structure not in seen:
                seen.add(structure)
                yield space, spec, variant


def _build(
    space: str, spec: PrefillSpec, variant: dict[str, Any], path: str
) -> list[tuple[dict[str, Any], str]]:
    """Libraries of two kernels of a variant, as unlike as they come, each with what it is."""
    target, case = resolve_target("cuda"), Case(spec, SHAPE, parse_lengths("full"))
    some = Arm(case, target, SPACES[space], variant, None, 8, 1).propose(_SOME)
    some.sort(key=lambda proposal: str(proposal.trace[1]))
    row = {"space": space, "spec": str(spec), "variant": variant}
    return [
        (
            row | {"point": proposal.trace[1]},
            str(build_library(proposal.module, target.target, f"{path}_{end}.so")),
        )
        for end, proposal in enumerate((some[0], some[-1]))
    ]


def _sanitized(row: dict[str, Any], path: str) -> dict[str, Any]:
    """What a kernel is, and what each tool says of it."""
    return row | {tool: _sanitize(tool, path, row["spec"]) for tool in TOOLS}


def _tests() -> dict[str, int]:
    """How many of the tests for a GPU passed, failed and were skipped."""
    with tempfile.NamedTemporaryFile(suffix=".xml") as report:
        command = [sys.executable, "-m", "pytest", "tests/gpu", f"--junit-xml={report.name}"]
        command += ["-n", "logical", "--maxprocesses", "32", "--dist", "worksteal"]
        subprocess.run(command, check=False)
        (suite,) = ElementTree.parse(report.name).iter("testsuite")
    tests, failed, errors, skipped = (
        int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")
    )
    passed = tests - failed - errors - skipped
    return {"passed": passed, "failed": failed + errors, "skipped": skipped}


def _sanitize(tool: str, path: str, spec: str) -> str:
    """The tool's closing line."""
    if shutil.which("compute-sanitizer") is None:
        return "compute-sanitizer is not installed"
    command = [
        "compute-sanitizer",
        "--tool",
        tool,
        sys.executable,
        __file__,
        "--launch",
        path,
        spec,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    lines = [line for line in done.stdout.splitlines() if "SUMMARY" in line]
    return lines[-1].lstrip("= ") if lines else done.stdout[-500:] + done.stderr[-500:]


def _launch(path: str, text: str) -> None:
    """Launch a kernel once on inputs of a mixed batch."""
    import tvm
    from tvm.runtime import load_module, tensor

    from prefilltune.tuning.measuring.checking import poisoned_results
    from prefilltune.workloads import make_inputs

    spec, device = PrefillSpec.parse(text), tvm.cuda(0)
    lens = np.array([SHAPE.num_kv, SHAPE.num_kv // 2], "int32")
    inputs = make_inputs(spec, SHAPE, lens, 0, poison_padding=True)
    arrays = [*inputs.arguments, *poisoned_results(spec, SHAPE)]
    load_module(path)["main"](*(tensor(array, device) for array in arrays))
    device.sync()


if __name__ == "__main__":
    main()
