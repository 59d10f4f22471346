"""Trials a minute against the number of devices.

Two measurements. *Loopback*: a tracker, workers and a search as real processes on this machine, so
that its cores limit everything. *Replayed*: the real search and the real pool, with devices and
builders that sleep as long as a recorded measurement or build took: over a space that is
enumerated, and over ``llvm_fused``, which is evolved and takes more of the processor. Modules are
pickled for the builders as in any search, and there are more of these than the devices need::

    python benchmarks/pool_scale.py > docs/measurements/pool_scale.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import pickle
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from prefilltune.tuning.backends import backend_of
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.devices.address import Address
from prefilltune.tuning.devices.machine import Wanted
from prefilltune.tuning.devices.opening import local_pool, pool_of_tracker
from prefilltune.tuning.devices.pool import Pool
from prefilltune.tuning.devices.remote import devices_of
from prefilltune.tuning.devices.slot import Slot
from prefilltune.tuning.errors import NoDeviceError
from prefilltune.tuning.measuring.cpu import Measurement, tvm_environment
from prefilltune.tuning.measuring.worker import Outcome, Worker
from prefilltune.tuning.search.search import Search
from prefilltune.tuning.search.state import Limit, SearchState
from prefilltune.tuning.search.trial_log import TrialLog
from prefilltune.tuning.spaces import DesignSpace
from prefilltune.tuning.spaces.llvm_fused import LlvmFused
from prefilltune.workloads import Case, PrefillShape, PrefillSpec, parse_lengths, plain_attention

SPEC, SHAPE = PrefillSpec(8, 8, 64, "float32"), PrefillShape(8, 512)
KEY = "bench"
_TRIALS_PER_DEVICE = 32

#: How long a call took, and how it ended.
Recorded = tuple[float, Outcome]


class Recorder(Worker):
    """A worker that notes how long its calls took and how they ended."""

    def __init__(self) -> None:
        super().__init__(tvm_environment(1))
        self.calls: list[Recorded] = []

    def call(self, function: Callable[..., Any], *args: Any, timeout: float) -> Outcome:
        start = time.monotonic()
        outcome = super().call(function, *args, timeout=timeout)
        if function.__name__ in ("check_and_time", "build_library"):
            self.calls.append((time.monotonic() - start, outcome))
        return outcome


class Replayed:
    """A device or a builder that sleeps, and answers what was recorded."""

    def __init__(self, recorded: Iterator[Recorded], lock: threading.Lock) -> None:
        self.busy: list[tuple[float, float]] = []
        self._recorded = recorded
        self._lock = lock

    def call(self, function: Callable[..., Any], *args: Any, timeout: float) -> Outcome:
        if function.__name__ == "prepare":
            return Outcome("ok")
        if function.__name__ == "sample_arm":  # sampling is what keeps the processor busy here
            return Outcome("ok")
        if function.__name__ == "time_ragged_baseline":
            return Outcome("ok", 1e-3)
        if function.__name__ == "build_library":
            pickle.dumps((function, args))
        with self._lock:
            seconds, outcome = next(self._recorded)
        start = time.monotonic()
        time.sleep(seconds)
        self.busy.append((start, time.monotonic()))
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


class Enumerated(LlvmFused):
    """A space that costs little to sample: 24 columns of the plain description, split."""

    name: ClassVar[str] = "enumerated"
    shape: ClassVar[PrefillShape] = PrefillShape(2, 24)

    def variants(self, *_: object) -> list[dict[str, int]]:
        return [{"first": 2 + 8 * number} for number in range(256)]

    def describe(self, spec: PrefillSpec, shape: PrefillShape, variant: Any) -> Any:
        return plain_attention(spec, shape)

    def generator(self, spec: PrefillSpec, variant: Any) -> Any:
        from tvm.s_tir.meta_schedule.space_generator import ScheduleFn

        def split(sch: Any) -> None:
            for name in ("dot", "scores"):
                factor = sch.sample_categorical(list(range(first, first + 8)), [0.125] * 8)
                sch.split(sch.get_loops(sch.get_sblock(name))[3], factors=[12, factor])

        first = variant["first"]
        return ScheduleFn(split, sch_rules=[], postprocs=[], mutator_probs={})


def search(
    trials: int,
    pool: Pool,
    builders: Sequence[Any] | None = None,
    space: DesignSpace | None = None,
    shape: PrefillShape = SHAPE,
) -> SearchState:
    """A search, of the usual space if no other is given."""
    target = resolve_target("llvm", 1)
    case = Case(SPEC, shape, parse_lengths("full"))
    with tempfile.TemporaryDirectory() as folder:
        log = TrialLog(Path(folder) / "log.jsonl", {})
        with Search(
            case, target, [space or LlvmFused()], log, lambda _: None, pool=pool, builders=builders
        ) as search:
            return search.run(Limit(trials=trials))


def pace(state: SearchState, devices: int) -> float:
    """Trials a minute, from the first on; as many as there are devices end with it."""
    return (state.trials - devices) / (state.elapsed - state.first_measured) * 60


def busy_share(devices: Sequence[Replayed]) -> float:
    """How much of the time devices measured, from the first candidate until the last was begun."""
    begun = [start for device in devices for start, _ in device.busy]
    first, last = min(begun), max(begun)
    spent = sum(max(0, min(end, last) - start) for each in devices for start, end in each.busy)
    return spent / len(devices) / (last - first)


def record(trials: int) -> tuple[list[Recorded], list[Recorded]]:
    """Measurements and builds of a real search, one at a time."""
    device, builder = Recorder(), Recorder()
    with builder, Pool([Slot("this machine", device)], elsewhere=False) as pool:
        search(trials, pool, [builder])
    measured = [each for each in device.calls if isinstance(each[1].value, Measurement)]
    built = [each for each in builder.calls if each[1].status == "ok"]
    return measured, built


def replay(
    space: DesignSpace, devices: int, measured: Sequence[Recorded], built: Sequence[Recorded]
) -> dict[str, float]:
    """The pace with so many devices, and with more builders than they need."""
    lock = threading.Lock()
    measurements, builds = itertools.cycle(measured), itertools.cycle(built)
    runners = [Replayed(measurements, lock) for _ in range(devices)]
    slots = [Slot(f"device {number}", runner) for number, runner in enumerate(runners)]
    builders = [Replayed(builds, lock) for _ in range(2 * devices)]
    trials = max(32, _TRIALS_PER_DEVICE * devices)
    shape = space.shape if isinstance(space, Enumerated) else SHAPE
    before = time.process_time()
    with Pool(slots) as pool:
        state = search(trials, pool, builders, space, shape)
    processor = time.process_time() - before
    found = pace(state, devices)
    per_device = 60 / statistics.mean(seconds for seconds, _ in measured)
    return {
        "devices": devices,
        "trials": state.trials,
        "trials_per_minute": round(found, 1),
        "efficiency": round(found / (devices * per_device), 3),
        "busy_until_last_start": round(busy_share(runners), 3),
        "cpu_seconds_per_trial": round(processor / state.trials, 4),
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
        found = [{"workers": 0, "trials_per_minute": round(pace(search(trials, pool), 1), 1)}]
    with workers(4) as address:
        for count in (1, 2, 4):
            with pool_of_tracker(address, KEY, Wanted("llvm", 1), count) as pool:
                state = search(trials, pool)
            found.append({"workers": count, "trials_per_minute": round(pace(state, count), 1)})
            time.sleep(3)  # the devices given back are told to the tracker
    return found


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=24, help="of each loopback search")
    parser.add_argument("--most", type=int, default=256, help="devices that are replayed")
    parser.add_argument("--space", nargs="*", default=["enumerated", "llvm_fused"])
    parser.add_argument("--no-loopback", dest="loopback", action="store_false")
    options = parser.parse_args()
    measured, built = record(options.trials)
    counts = [2**power for power in range(9) if 2**power <= options.most]
    spaces = {"enumerated": Enumerated(), "llvm_fused": LlvmFused()}
    replayed = {
        name: [replay(space, count, measured, built) for count in counts]
        for name, space in spaces.items()
        if name in options.space
    }
    result = {
        "spec": str(SPEC),
        "shape": str(SHAPE),
        "device": backend_of("llvm").device_name(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": backend_of("llvm").versions(),
        "recorded": {
            "measurements": len(measured),
            "mean_measurement_seconds": round(statistics.mean(each for each, _ in measured), 3),
            "mean_build_seconds": round(statistics.mean(each for each, _ in built), 3),
        },
        "loopback": loopback(options.trials) if options.loopback else [],
        "replayed": replayed,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
