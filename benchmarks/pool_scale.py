"""Trials a minute against the number of devices.

Two measurements. *Loopback*: a tracker, workers and a search as real processes on this machine, so
that its cores limit everything. *Replayed*: the real search and the real pool, sampling real
candidates, with devices and builders that sleep as long as a recorded measurement or build took::

    python benchmarks/pool_scale.py > docs/measurements/pool_scale.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefilltune.tuning.address import Address
from prefilltune.tuning.arm import Case
from prefilltune.tuning.environment import versions
from prefilltune.tuning.errors import NoDeviceError
from prefilltune.tuning.machine import Wanted
from prefilltune.tuning.measure import Measurement, tvm_environment
from prefilltune.tuning.pool import Pool, Slot
from prefilltune.tuning.pools import local_pool, pool_of_tracker
from prefilltune.tuning.remote import devices_of
from prefilltune.tuning.search import Limit, Search, SearchState
from prefilltune.tuning.spaces.llvm_fused import LlvmFused
from prefilltune.tuning.target import device_name, resolve_target
from prefilltune.tuning.trial_log import TrialLog
from prefilltune.tuning.worker import Outcome, Worker
from prefilltune.workloads import PrefillShape, PrefillSpec, parse_lengths

SPEC, SHAPE = PrefillSpec(8, 8, 64, "float32"), PrefillShape(8, 512)
KEY = "bench"


class Recorder(Worker):
    """A worker that notes how long its calls took and how they ended."""

    def __init__(self) -> None:
        super().__init__(tvm_environment(1))
        self.calls: list[tuple[float, Outcome]] = []

    def call(self, function: Callable[..., Any], *args: Any, timeout: float) -> Outcome:
        start = time.monotonic()
        outcome = super().call(function, *args, timeout=timeout)
        if function.__name__ in ("check_and_time", "build_library"):
            self.calls.append((time.monotonic() - start, outcome))
        return outcome


class Replayed:
    """A device or a builder that sleeps, and answers what was recorded."""

    def __init__(self, recorded: Iterator[tuple[float, Outcome]], lock: threading.Lock) -> None:
        self._recorded = recorded
        self._lock = lock

    def call(self, function: Callable[..., Any], *args: Any, timeout: float) -> Outcome:
        if function.__name__ == "prepare":
            return Outcome("ok")
        if function.__name__ == "time_ragged_baseline":
            return Outcome("ok", 1e-3)
        with self._lock:
            seconds, outcome = next(self._recorded)
        time.sleep(seconds)
        return outcome

    def start(self) -> None:
        pass

    def restart(self) -> None:
        pass

    def abort(self) -> None:
        pass

    def close(self, *, kill: bool = False) -> None:
        pass

    def resident_bytes(self) -> int:
        return 0


def search(trials: int, pool: Pool, builders: Sequence[Any] | None = None) -> SearchState:
    """A search of the usual space."""
    case = Case(SPEC, SHAPE, resolve_target("llvm", 1), parse_lengths("full"))
    with tempfile.TemporaryDirectory() as folder:
        log = TrialLog(Path(folder) / "log.jsonl", {})
        with Search(
            case, [LlvmFused()], log, lambda _: None, pool=pool, builders=builders
        ) as search:
            return search.run(Limit(trials=trials))


def pace(state: SearchState) -> float:
    """Trials a minute, from the first on."""
    return (state.trials - 1) / (state.elapsed - state.first_measured) * 60


def record(trials: int) -> tuple[list[tuple[float, Outcome]], list[tuple[float, Outcome]]]:
    """Measurements and builds of a real search, one at a time."""
    device, builder = Recorder(), Recorder()
    with builder, Pool([Slot("this machine", device)], elsewhere=False) as pool:
        search(trials, pool, [builder])
    measured = [each for each in device.calls if isinstance(each[1].value, Measurement)]
    built = [each for each in builder.calls if each[1].status == "ok"]
    return measured, built


def replay(
    devices: int,
    builders: int,
    measured: Sequence[tuple[float, Outcome]],
    built: Sequence[tuple[float, Outcome]],
) -> dict[str, float]:
    """The pace with so many devices and builders."""
    lock = threading.Lock()
    measurements, builds = itertools.cycle(measured), itertools.cycle(built)
    slots = [Slot(f"device {n}", Replayed(measurements, lock)) for n in range(devices)]
    with Pool(slots) as pool:
        state = search(
            min(1024, max(32, 6 * devices)), pool, [Replayed(builds, lock) for _ in range(builders)]
        )
    return {
        "devices": devices,
        "builders": builders,
        "trials": state.trials,
        "trials_per_minute": round(pace(state), 1),
    }


@contextmanager
def workers(count: int) -> Iterator[Address]:
    """A tracker and workers on this machine."""
    address, command = Address("127.0.0.1", _free_port()), [sys.executable, "-m"]
    command.append("prefilltune.tuning")
    lend = ["worker", "--tracker", str(address), "--key", KEY, "--port", str(_free_port())]
    commands = [["tracker", "--port", str(address.port)], *[lend] * count]
    started = [subprocess.Popen([*command, *each], stderr=subprocess.DEVNULL) for each in commands]
    try:
        while not _known(address, count):
            time.sleep(0.5)
        yield address
    finally:
        for each in started:
            each.send_signal(signal.SIGTERM)
        for each in started:
            each.wait()


def _known(address: Address, count: int) -> bool:
    try:
        return devices_of(address, KEY) >= count
    except NoDeviceError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def loopback(trials: int) -> list[dict[str, float]]:
    """The pace with workers as real processes, and without any."""
    with local_pool(resolve_target("llvm", 1)) as pool:
        found = [{"workers": 0, "trials_per_minute": round(pace(search(trials, pool)), 1)}]
    with workers(4) as address:
        for count in (1, 2, 4):
            with pool_of_tracker(address, KEY, Wanted("llvm", 1), count) as pool:
                state = search(trials, pool)
            found.append({"workers": count, "trials_per_minute": round(pace(state), 1)})
            time.sleep(3)  # the devices given back are told to the tracker
    return found


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=24, help="of each loopback search")
    parser.add_argument("--most", type=int, default=256, help="devices that are replayed")
    options = parser.parse_args()
    measured, built = record(options.trials)
    counts = [2**power for power in range(9) if 2**power <= options.most]
    mean = sum(seconds for seconds, _ in measured) / len(measured)
    mean_build = sum(seconds for seconds, _ in built) / len(built)
    ample = max(1, round(2 * mean_build / mean))  # a device, so that builds never limit
    replayed = [replay(count, ample * count, measured, built) for count in counts]
    for each in replayed:
        ideal = each["devices"] * replayed[0]["trials_per_minute"]
        each["efficiency"] = round(each["trials_per_minute"] / ideal, 3)
    result = {
        "spec": str(SPEC),
        "shape": str(SHAPE),
        "device": device_name("llvm"),
        "cores": len(os.sched_getaffinity(0)),
        "versions": versions(),
        "recorded": {
            "measurements": len(measured),
            "mean_measurement_seconds": round(mean, 3),
            "mean_build_seconds": round(mean_build, 3),
        },
        "loopback": loopback(options.trials),
        "replayed": replayed,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
