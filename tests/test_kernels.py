"""Kernels that are built: checked batch by batch on fresh inputs, and timed in turns."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from prefilltune.tuning.backends.llvm import LLVM
from prefilltune.tuning.errors import WorkerFailedError
from prefilltune.tuning.measuring import cpu
from prefilltune.tuning.measuring.kernels import (
    COMPARED_SEED,
    KEPT_SEED,
    check,
    fresh_inputs,
    time_in_turns,
)
from prefilltune.tuning.measuring.worker import Outcome
from prefilltune.tuning.search.tune import _SecondDevice
from prefilltune.workloads import Case, PrefillShape, PrefillSpec, parse_lengths

CASE = Case(PrefillSpec(2, 1, 16, "float32"), PrefillShape(2, 24), parse_lengths("uniform"), 5)
BATCHES = [(24, 24), (1, 0), (7, 31)]
SEED = 11


class Process:
    """Answers calls from a table, by library and batch; counts its restarts."""

    def __init__(self, answers: dict[tuple[str, tuple[int, ...]], Outcome] | None = None) -> None:
        self.answers = answers or {}
        self.asked: list[tuple[str, tuple[int, ...]]] = []
        self.restarts = 0

    def call(self, function: Callable[..., Any], *args: Any, timeout: float) -> Outcome:
        assert timeout > 0
        path, spec, shape, (lens,), seed = args
        assert (spec, shape, seed) == (CASE.spec, CASE.shape, SEED)
        self.asked.append((path, lens))
        return self.answers.get((path, lens), Outcome("ok", 1e-7))

    def restart(self) -> None:
        self.restarts += 1


def checked(process: Process, paths: Sequence[str]) -> dict[str, Outcome]:
    return check(cpu.check_kernel, CASE, paths, process, BATCHES, SEED)


def test_all_kernels_are_checked_on_a_batch_before_any_on_the_next() -> None:
    process = Process({("b", BATCHES[1]): Outcome("ok", 3e-6)})
    found = checked(process, ["a", "b", "a"])
    assert process.asked == [(path, lens) for lens in BATCHES for path in "ab"]
    assert found == {"a": Outcome("ok", 1e-7), "b": Outcome("ok", 3e-6)}


@pytest.mark.parametrize("error", [0.5, math.inf, math.nan])
def test_a_wrong_kernel_is_not_checked_any_further(error: float) -> None:
    process = Process({("a", BATCHES[0]): Outcome("ok", error)})
    found = checked(process, ["a", "b"])
    assert process.asked == [("a", BATCHES[0]), *(("b", lens) for lens in BATCHES)]
    assert repr(found["a"].value) == repr(error)
    assert process.restarts == 0


def test_a_kernel_that_fails_costs_its_process_and_not_the_others() -> None:
    crash = Outcome("crash", detail="died of SIGSEGV")
    process = Process({("a", BATCHES[1]): crash})
    found = checked(process, ["a", "b"])
    assert [path for path, _ in process.asked] == ["a", "b", "a", "b", "b"]
    assert found == {"a": crash, "b": Outcome("ok", 1e-7)}
    assert process.restarts == 1


def test_a_kernel_that_cannot_be_timed_is_told() -> None:
    class Failing(Process):
        def call(self, function: Callable[..., Any], *args: Any, timeout: float) -> Outcome:
            return Outcome("timeout", detail="killed after 9 s")

    with pytest.raises(WorkerFailedError, match="time_kernel ended with timeout: killed after 9 s"):
        time_in_turns(LLVM.engine, CASE, ["a"], Failing())


def test_kernels_are_timed_in_turns() -> None:
    asked: list[str] = []

    class Timed(Process):
        def call(self, function: Callable[..., Any], *args: Any, timeout: float) -> Outcome:
            path, *workload, _ = args
            assert function is cpu.time_kernel
            assert workload == [CASE.spec, CASE.shape, CASE.batches(), CASE.seed]
            asked.append(path)
            return Outcome("ok", 1e-3 if path == "a" else 2e-3)

    times = time_in_turns(LLVM.engine, CASE, ["a", "b"], Timed(), rounds=4)
    assert times == [(1e-3,) * 4, (2e-3,) * 4]
    rounds = [{*asked[first : first + 2]} for first in range(0, len(asked), 2)]
    assert rounds == [{"a", "b"}] * 5  # once to warm up


def test_no_kernel_is_checked_on_inputs_that_it_was_chosen_by() -> None:
    kept, compared = (fresh_inputs(CASE, seed) for seed in (KEPT_SEED, COMPARED_SEED))
    assert len({CASE.seed, kept[1], compared[1]}) == 3
    assert kept[0] != compared[0]
    later = dataclasses.replace(CASE, seed=6)
    assert fresh_inputs(later, KEPT_SEED)[1] != kept[1]


class Devices:
    """A pool whose devices answer one after the other."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = list(outcomes)
        self.replaced = 0

    @contextmanager
    def lease(self) -> Iterator[Any]:
        answer = self.outcomes.pop(0)

        class Device:
            def call(self, function: Callable[..., Any], *args: Any, timeout: float) -> Outcome:
                return answer

        try:
            yield Device()
        except WorkerFailedError:
            self.replaced += 1
            raise


LOST, CRASH, RIGHT = (
    Outcome("lost", detail="gone"),
    Outcome("crash", detail="died"),
    Outcome("ok", 0.0),
)


@pytest.mark.parametrize(
    ("outcomes", "told", "replaced"),
    [([RIGHT], RIGHT, 0), ([LOST, RIGHT], RIGHT, 1), ([LOST, CRASH], CRASH, 2)],
)
def test_a_device_is_blamed_before_the_kernel(
    outcomes: list[Outcome], told: Outcome, replaced: int
) -> None:
    pool = Devices(*outcomes)
    found = _SecondDevice(pool).call(cpu.check_kernel, "a", timeout=1.0)  # pyright: ignore[reportArgumentType]
    assert (found, pool.outcomes, pool.replaced) == (told, [], replaced)
