"""A search on several devices ends with the same record whatever befalls one of them."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import pytest
from faulty_devices import check_and_time, device, simulated
from small_spaces import SplitScores

from prefilltune.tuning.backends import BACKENDS
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.devices.machine import Wanted, machine_here
from prefilltune.tuning.devices.pool import Pool
from prefilltune.tuning.devices.slot import Slot
from prefilltune.tuning.errors import NoDeviceError
from prefilltune.tuning.measuring.worker import Outcome, Worker
from prefilltune.tuning.search.builders import BuilderProcess
from prefilltune.tuning.search.device_job import device_job
from prefilltune.tuning.search.search import Search
from prefilltune.tuning.search.state import Limit, SearchState
from prefilltune.tuning.search.trial_log import Trial, TrialLog
from prefilltune.workloads import Case, PrefillShape, PrefillSpec, parse_lengths

SPACE = SplitScores(((2, 4), (3, 6)))
TRIALS = 4 + 4
TARGET = resolve_target("llvm", 2)


def _case() -> Case:
    spec, shape = PrefillSpec(2, 1, 16, "float32"), PrefillShape(2, 24)
    return Case(spec, shape, parse_lengths("full"))


@pytest.fixture(autouse=True)
def _simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "llvm", simulated(BACKENDS["llvm"]))


def _pool(workers: Sequence[Worker]) -> Pool:
    return Pool([Slot(f"device {number}", worker) for number, worker in enumerate(workers)])


def _search(
    workers: Sequence[Worker],
    log: Path,
    builders: Sequence[BuilderProcess],
    trials: int | None = None,
    space: SplitScores = SPACE,
) -> tuple[SearchState, list[Trial]]:
    with (
        _pool(workers) as pool,
        Search(
            _case(),
            TARGET,
            [space],
            TrialLog(log, {}),
            lambda _: None,
            pool=pool,
            builders=builders,
        ) as search,
    ):
        state = search.run(Limit(trials, 300))
    assert not any(worker.pid for worker in workers)
    return state, search.trials


@pytest.fixture(scope="module")
def sound(
    tmp_path_factory: pytest.TempPathFactory, builders: Sequence[BuilderProcess]
) -> dict[str, float]:
    """Times of all candidates, by identity, on sound devices."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKENDS, "llvm", simulated(BACKENDS["llvm"]))
        log = tmp_path_factory.mktemp("sound") / "log"
        state, trials = _search([device(), device(), device()], log, builders)
    assert (state.trials, state.failures, state.faults) == (TRIALS, {}, {})
    assert state.baseline_seconds == 1e-3
    return {trial.identity: trial.seconds for trial in trials}


def _times(trials: Sequence[Trial]) -> dict[str, float]:
    return {trial.identity: trial.seconds for trial in trials}


@pytest.mark.parametrize(
    ("faults", "counted"),
    [
        (["kill:2"], "crash"),
        pytest.param(["raise"], "error", marks=pytest.mark.slow),
        pytest.param(["nan:2", "negative", "zero"], "garbage", marks=pytest.mark.slow),
    ],
)
def test_devices_that_go_on_failing_cost_no_candidate(
    tmp_path: Path,
    sound: dict[str, float],
    builders: Sequence[BuilderProcess],
    faults: Sequence[str],
    counted: str,
) -> None:
    workers = [device("patient"), *map(device, faults)]
    state, trials = _search(workers, tmp_path / "log", builders)
    assert _times(trials) == sound
    assert not state.failures
    assert state.faults[counted] >= 1
    assert not any("device 0" in note for note in state.notes)


@pytest.mark.parametrize("devices", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_device_much_slower_than_its_siblings_is_set_aside(
    builders: Sequence[BuilderProcess], tmp_path: Path, sound: dict[str, float], devices: int
) -> None:
    workers = [device("slow"), *[device() for _ in range(devices - 1)]]
    state, trials = _search(workers, tmp_path / "log", builders)
    assert _times(trials) == sound
    assert (state.failures, state.faults) == ({}, {"slow device": 1})
    (note,) = state.notes
    assert note.startswith("device 0 is set aside: it takes 10 ms for the calibration kernel, 10 ")
    assert state.baseline_seconds == 1e-3


@pytest.mark.parametrize(
    "fault",
    ["nan", *(pytest.param(each, marks=pytest.mark.slow) for each in ("kill", "hang"))],
)
def test_a_device_that_fails_once_goes_on(
    builders: Sequence[BuilderProcess],
    tmp_path: Path,
    sound: dict[str, float],
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timeout = 5.0 if fault == "hang" else 60.0  # on a busy machine whoever is well may take a while
    monkeypatch.setitem(BACKENDS, "llvm", simulated(BACKENDS["llvm"], timeout=timeout))
    once = tmp_path / "once"
    workers = [device(fault, once), device(fault, once)]
    state, trials = _search(workers, tmp_path / "log", builders)
    assert once.exists()
    assert _times(trials) == sound
    kind = {"kill": "crash", "nan": "garbage", "hang": "timeout"}[fault]
    assert (state.failures, state.faults, state.notes) == ({}, {kind: 1}, [])


def test_a_device_alone_is_given_another_chance(
    builders: Sequence[BuilderProcess], tmp_path: Path, sound: dict[str, float]
) -> None:
    state, trials = _search([device("kill:3", tmp_path / "once")], tmp_path / "log", builders)
    assert _times(trials) == sound
    assert state.faults == {"crash": 1}


def test_harm_done_everywhere_is_the_candidates(
    builders: Sequence[BuilderProcess], tmp_path: Path
) -> None:
    state, _ = _search([device("raise"), device("raise")], tmp_path / "log", builders, 3)
    assert state.failures == {"run error": 3}
    assert (state.faults, state.notes) == ({}, [])


def test_a_poisoned_process_is_replaced_without_blame(
    builders: Sequence[BuilderProcess], tmp_path: Path
) -> None:
    state, _ = _search([device("wild"), device("wild")], tmp_path / "log", builders, 3)
    assert state.failures == {"device fault": 3}
    assert (state.faults, state.notes) == ({}, [])


def test_with_no_device_left_the_search_says_why_and_keeps_its_trials(
    builders: Sequence[BuilderProcess], tmp_path: Path, sound: dict[str, float]
) -> None:
    log = tmp_path / "log"
    with pytest.raises(NoDeviceError, match=r"device 0 is set aside: 3 of \d+ calls failed"):
        _search([device("instant:2")], log, builders)
    assert 0 < len(TrialLog(log, {}).read()) < TRIALS
    state, trials = _search([device()], log, builders)
    assert state.restored + state.trials == TRIALS
    assert _times(trials) == sound


def test_a_builder_that_dies_costs_no_candidate(
    tmp_path: Path, sound: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = Worker()
    with _killed_while_building(builder, monkeypatch) as kills:
        state, trials = _search([device()], tmp_path / "log", [builder])
    assert kills == [True]
    assert _times(trials) == sound
    assert (state.failures, state.faults) == ({}, {"builder died": 1})


@contextmanager
def _killed_while_building(
    builder: Worker, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[bool]]:
    """Kill a builder's process in the middle of its third build."""
    calls, kills = 0, []
    real_submit = builder.submit

    def submit(function, *args, timeout):
        nonlocal calls
        real_submit(function, *args, timeout=timeout)
        calls += 1
        if calls == 3:
            builder.abort()
            kills.append(True)

    monkeypatch.setattr(builder, "submit", submit)
    with builder:
        yield kills


@pytest.mark.slow
def test_a_builder_that_leaks_is_replaced(
    tmp_path: Path, sound: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefilltune.tuning.search.builders._MOST_BYTES", 1 << 20)
    with Worker() as builder:
        state, trials = _search([device()], tmp_path / "log", [builder], trials=3)
    assert _times(trials).items() <= sound.items()
    assert state.faults["builder leaked"] >= 3


def test_a_log_that_takes_no_more_ends_the_search_and_loses_nothing(
    builders: Sequence[BuilderProcess], tmp_path: Path, sound: dict[str, float]
) -> None:
    log = tmp_path / "log"
    script = """
import resource, sys
from pathlib import Path
from prefilltune.database import NotWritableError
from prefilltune.tuning.search.trial_log import Trial, TrialLog

log = TrialLog(Path(sys.argv[1]), {})
resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))
trial = Trial("split_scores", {"widths": 0}, [["x" * 100], []], (1.0,))
try:
    for _ in range(10):
        log.append([trial])
except NotWritableError as error:
    assert "File too large" in str(error) and "make room" in str(error), error
    print(len(log.read()))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, str(log)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    kept = int(done.stdout)
    assert kept == len(TrialLog(log, {}).read()) > 0
    state, trials = _search([device()], log, builders)
    assert (state.restored, state.trials) == (kept, TRIALS)
    assert sound.items() <= _times(trials).items()


@pytest.mark.slow
def test_what_is_measured_depends_on_no_race(
    builders: Sequence[BuilderProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arms learn in the order of proposals, also where a device that hangs delays the first."""
    monkeypatch.setitem(BACKENDS, "llvm", simulated(BACKENDS["llvm"], timeout=3.0))
    space = SplitScores(
        tuple((2 + 3 * number, 3 + 3 * number, 4 + 3 * number) for number in range(8))
    )
    measured = []
    for name, fault in (("even", ""), ("delayed", "hang")):
        workers = [device(), device(fault, tmp_path / "once")]
        state, trials = _search(workers, tmp_path / name, builders, 40, space)
        assert (state.trials, state.failures) == (40, {})
        measured.append(_times(trials))
    assert measured[0] == measured[1]


def test_slots_are_handed_out_in_the_order_of_asking() -> None:
    taken: list[int] = []

    def take(number: int) -> None:
        with pool.lease():
            taken.append(number)

    with _pool([device()]) as pool:
        pool.open(device_job(_case(), TARGET, threading.Event()))
        with pool.lease():
            threads = [threading.Thread(target=take, args=(number,)) for number in range(6)]
            for number, thread in enumerate(threads):
                thread.start()
                while len(pool._queue.turns) <= number:
                    time.sleep(0.001)
        with pool.lease():
            pass
        for thread in threads:
            thread.join()
    assert taken == list(range(6))


def test_another_device_under_the_same_key_is_set_aside() -> None:
    wanted = Wanted("llvm", 2)
    here = machine_here(TARGET)
    other = dataclasses.replace(here, device={**here.device, "name": "Z80"})
    with Pool([Slot("device 0", device())], wanted=wanted, machine=other) as pool:
        pool.open(device_job(_case(), TARGET, threading.Event()))
        with pytest.raises(NoDeviceError, match=r"its siblings are Z80.*give it another key"):
            pool.wait_until_ready()


def test_a_search_that_is_stopped_waits_for_no_device(tmp_path: Path) -> None:
    """Devices that never get ready do not keep an interrupted search from ending."""
    with _pool([device()]) as pool:
        stopping = threading.Event()
        never: Sequence[float] = [math.inf]
        pool.open(device_job(_case(), TARGET, stopping))
        with pool.lease():
            stopping.set()
            start = time.monotonic()
            outcome = pool.measure(check_and_time, os.devnull, never, timeout=1.0)
        assert outcome == Outcome("cancelled")
        assert time.monotonic() - start < 60


def test_a_pool_that_is_closed_blames_no_device(tmp_path: Path) -> None:
    """Closing ends what devices are doing, which is no fault of theirs."""
    begun = tmp_path / "once"
    baseline: Future[str | None] = Future()
    baseline.set_result(os.devnull)
    with _pool([device(), device("stuck", begun)]) as pool:
        pool.open(device_job(_case(), TARGET, threading.Event(), baseline))
        while not (begun.exists() and math.isfinite(pool.slots[0].calibration)):
            time.sleep(0.01)
    assert (pool.faults, pool.notes) == ({}, [])
