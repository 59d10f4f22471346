"""How long a tuning plan takes against how many of its searches run at a time.

A tracker and its workers run on this machine, and plans as from the command line. *Asleep*: the
workers are TVM's servers as always, but sleep where a kernel would be measured, as devices of
another machine leave this one's cores alone. *Loopback*: they measure, on the cores that search and
build too::

    python benchmarks/plan_scale.py > docs/measurements/plan_scale.json
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from prefilltune.tuning.backends import backend_of
from prefilltune.tuning.devices.address import Address
from prefilltune.tuning.devices.functions import FUNCTIONS
from prefilltune.tuning.devices.remote import devices_of
from prefilltune.tuning.devices.rpc_server import serve
from prefilltune.tuning.errors import NoDeviceError
from prefilltune.tuning.measuring.cpu import Measurement
from prefilltune.tuning.measuring.tvm_import import import_tvm_without_torch
from prefilltune.tuning.target import usable_cores

KEY = "bench"
HEADS = "8x64"
SHAPES = ("8x128", "4x256", "2x512", "1x512")
_DEVICES = 2
_MEASUREMENT_SECONDS = 2.0


def prepare(*_: Any) -> None:
    """Nothing to prepare."""


def check_kernel(*_: Any) -> float:
    """No error at all."""
    return 0.0


def time_kernel(path: str, *arguments: Any) -> float:
    """A time that is drawn from the library, after the seconds that were asked for."""
    time.sleep(arguments[-1])
    return _seconds(path)


def check_and_time(path: str, *_: Any) -> Measurement:
    """A time that is drawn from the library, after a while."""
    time.sleep(_MEASUREMENT_SECONDS)
    return Measurement(0.0, (_seconds(path),) * 3)


def time_baseline(*_: Any) -> float:
    """The same on every device."""
    return 1e-2


def _seconds(path: str) -> float:
    return 1e-3 * (1 + hashlib.sha256(Path(path).read_bytes()).digest()[0] / 256)


def serve_asleep(tracker: Address, port: int) -> None:
    """A worker whose devices sleep."""
    import plan_scale  # what is pickled for its processes must be of the importable module

    for name in ("prepare", "check_kernel", "time_kernel", "check_and_time", "time_baseline"):
        FUNCTIONS[f"llvm.{name}"] = getattr(plan_scale, name)
    serve("127.0.0.1", port, tracker, KEY, None)


@contextlib.contextmanager
def tracker_with(devices: int, *, asleep: bool) -> Iterator[Address]:
    """A tracker and workers on this machine."""
    address = Address("127.0.0.1", _free_port())
    command = [sys.executable, "-m", "prefilltune.tuning"]
    worker = [*command, "worker", "--tracker", str(address), "--key", KEY, "--port"]
    if asleep:
        worker = [sys.executable, __file__, "--serve", str(address)]
    with ExitStack() as stack:
        stack.enter_context(_running([*command, "tracker", "--port", str(address.port)]))
        for _ in range(devices):
            stack.enter_context(_running([*worker, str(_free_port())]))
        while _known(address) < devices:
            time.sleep(0.5)
        yield address


@contextlib.contextmanager
def _running(command: Sequence[str]) -> Iterator[None]:
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, **quiet)  # pyright: ignore
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _known(address: Address) -> int:
    try:
        return devices_of(address, KEY)
    except NoDeviceError:
        return 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_plan(tracker: Address, searches: int, trials: int) -> dict[str, Any]:
    """A plan of :data:`SHAPES` on devices that a tracker knows."""
    return {"searches": searches} | timed_plan(
        f'heads = ["{HEADS}"]\nshapes = {json.dumps(SHAPES)}\nbudget = "1h"\n'
        f"trials = {trials}\nslice = {trials}\nsearches = {searches}\n"
        f'[[targets]]\ntarget = "llvm"\nthreads = 1\ntracker = "{tracker}"\nkey = "{KEY}"\n'
    )


def timed_plan(text: str) -> dict[str, Any]:
    """A plan in TOML, from the start of its command to its end: its trials and seconds."""
    with tempfile.TemporaryDirectory() as folder:
        path, root = Path(folder) / "bench.toml", Path(folder) / "database"
        path.write_text(text)
        command = [sys.executable, "-m", "prefilltune.tuning", "plan", "run", str(path)]
        start = time.monotonic()
        done = subprocess.run(
            [*command, "--database", str(root)], stdout=subprocess.PIPE, text=True, check=True
        )
        seconds = time.monotonic() - start
        print(done.stdout, file=sys.stderr)
        made = sum(len(log.read_text().splitlines()) for log in root.glob("*/trials/*.jsonl"))
    return {"trials": made, "seconds": round(seconds, 1)}


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=24, help="of each workload")
    parser.add_argument("--times", type=int, default=2, help="that each plan is run, in turns")
    parser.add_argument("--serve", nargs=2, metavar=("TRACKER", "PORT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve_asleep(Address.parse(options.serve[0]), int(options.serve[1]))
        return
    import_tvm_without_torch()
    found = {}
    for name, asleep in (("asleep", True), ("loopback", False)):
        with tracker_with(_DEVICES, asleep=asleep) as tracker:
            turns = [1, 2] * options.times
            found[name] = [run_plan(tracker, searches, options.trials) for searches in turns]
    result = {
        "heads": HEADS,
        "shapes": SHAPES,
        "device": backend_of("llvm").device_name(),
        "cores": usable_cores(),
        "versions": backend_of("llvm").versions(),
        "devices": _DEVICES,
        "measurement_seconds_asleep": _MEASUREMENT_SECONDS,
        "plans": found,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
