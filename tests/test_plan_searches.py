"""Searches of a plan side by side: real processes, two devices of this CPU with simulated times."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from small_spaces import DeadlyScores, SplitScores, WrongScores

from prefilltune.database import RecordStore
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.devices.machine import Wanted
from prefilltune.tuning.ending import Wish
from prefilltune.tuning.errors import NoDeviceError
from prefilltune.tuning.plans.agenda import PlannedCase
from prefilltune.tuning.plans.job import run_plan
from prefilltune.tuning.plans.ledger import ledger_path, read_ledger
from prefilltune.tuning.plans.plan import Plan
from prefilltune.tuning.plans.sharing import HERE, Device, Devices, most_at_once, share
from prefilltune.tuning.plans.status import plan_tables
from prefilltune.tuning.search.state import Listener, SearchState
from prefilltune.tuning.search.tune import log_path
from prefilltune.workloads import Case, PrefillShape, PrefillSpec, parse_lengths

TWO = (Device(gpu="0"), Device(gpu="1"))
POINTS = 4 + 4
PLAN = Plan("night", (), False, None, (), "full", 600.0, None, POINTS + 1, 2, 0, 1)

# What every process that a test starts knows: devices are simulated, and device 1 may be at fault.
SITE = """
import os
at_fault = os.environ.get("CUDA_VISIBLE_DEVICES") == "1"
os.environ["DEVICE_FAULT"] = os.environ.get("FAULT_OF_1", "") if at_fault else ""
from prefilltune.tuning.measuring.tvm_import import import_tvm_without_torch
import_tvm_without_torch()
from faulty_devices import simulated
from small_spaces import DeadlyScores, SplitScores, WrongScores
from prefilltune.tuning.backends import BACKENDS
from prefilltune.tuning.spaces import SPACES
for space in (SplitScores, WrongScores, DeadlyScores):
    SPACES[space.name] = space(((2, 4), (3, 6)))
BACKENDS["llvm"] = simulated(BACKENDS["llvm"])
"""


@pytest.fixture(scope="module", autouse=True)
def _site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text(SITE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONWARNINGS", "ignore")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *sys.path]))
        yield


def _planned(devices: Devices, *batches: int, space: str = SplitScores.name) -> list[PlannedCase]:
    target, spec = resolve_target("llvm", 1), PrefillSpec(2, 1, 16, "float32")
    cases = [Case(spec, PrefillShape(each, 24), parse_lengths("full")) for each in batches]
    return [PlannedCase(case, target, (space,), Wanted("llvm", 1), devices) for case in cases]


class Watch:
    """A display that remembers what was searched at the same time.

    Parameters
    ----------
    hear : Callable[[Watch], None]
        Told after every report.
    """

    def __init__(self, hear: Callable[[Watch], None] = lambda _: None) -> None:
        self.states: dict[str, SearchState] = {}
        self.together: set[frozenset[str]] = set()
        self.lines: list[str] = []
        self._hear = hear
        self._active: set[str] = set()
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self, title: str) -> Iterator[Listener]:
        with self._lock:
            self._active.add(title)
            self.together.add(frozenset(self._active))
        try:
            yield lambda state: self._update(title, state)
        finally:
            self._active.remove(title)

    def _update(self, title: str, state: SearchState) -> None:
        self.states[title] = state
        self._hear(self)


def _run(
    cases: list[PlannedCase],
    root: Path,
    watch: Watch,
    plan: Plan = PLAN,
    wish: Wish | None = None,
) -> bool:
    return run_plan(plan, cases, root, watch, watch.lines.append, wish)


def _measured(planned: PlannedCase, root: Path) -> list[tuple[str, float]]:
    """What is in the log of a case: each schedule with its time."""
    fields = [
        json.loads(line)
        for line in log_path(planned.case, planned.target.key, root).read_text().splitlines()
    ]
    return sorted(
        (json.dumps([each["variant"], each["trace"]]), min(each["run_secs"])) for each in fields
    )


def _names(cases: list[PlannedCase]) -> list[str]:
    return [each.name for each in cases]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[PlannedCase], Path]:
    """Two cases, searched at the same time, and where."""

    def look(_: Watch) -> None:
        (table,) = plan_tables(root)
        seen.add(tuple(table.columns[-1].cells))

    seen: set[tuple[object, ...]] = set()
    cases, watch, root = _planned(TWO, 2, 3), Watch(look), tmp_path_factory.mktemp("both")
    assert _run(cases, root, watch)
    assert frozenset(_names(cases)) in watch.together
    assert ("searching", "searching") in seen
    return cases, root


@pytest.mark.slow
def test_two_are_searched_side_by_side(both: tuple[list[PlannedCase], Path]) -> None:
    cases, root = both
    for each in cases:
        found = _measured(each, root)
        assert len(found) == len(dict(found)) == POINTS
    entries = RecordStore.open(root, cases[0].target.key).entries
    assert {each.provenance.shape for each in entries} == {"b2_q24_kv24", "b3_q24_kv24"}
    ledger = read_ledger(ledger_path(root, "night"))
    slices = [each for done in ledger.progress.values() for each in done.slices]
    assert 0 < ledger.spent < sum(each.seconds for each in slices)  # two at once count once
    assert ledger.searching == []


@pytest.mark.slow
@pytest.mark.thorough
def test_searches_side_by_side_find_what_they_find_alone(
    both: tuple[list[PlannedCase], Path], tmp_path: Path
) -> None:
    cases, root = both
    for each in cases:
        assert _run([each], tmp_path, Watch())
        assert _measured(each, root) == _measured(each, tmp_path)


@pytest.mark.slow
def test_a_budget_without_time_for_anything_still_finds_something_and_names_the_rest(
    tmp_path: Path,
) -> None:
    plan, cases = dataclasses.replace(PLAN, seconds=0.01, searches=1), _planned(TWO, 2, 3)
    watch = Watch()
    assert _run(cases, tmp_path, watch, plan)
    # What both devices were given before the first time came back is measured still, but not all.
    assert 1 <= len(_measured(cases[0], tmp_path)) < POINTS
    assert any("before the first candidate was measured" in line for line in watch.lines)
    assert f"1 of 2 workloads were begun, the first of them {cases[1].name}" in watch.lines[-1]


@pytest.mark.slow
def test_a_wish_ends_all_searches_and_loses_nothing(tmp_path: Path) -> None:
    def interrupt(watch: Watch) -> None:
        states = list(watch.states.values())
        if len(states) == 2 and all(state.trials for state in states) and not asked.is_set():
            asked.set()
            wish.make()

    wish, asked, cases = Wish(), threading.Event(), _planned(TWO, 2, 3)
    assert not _run(cases, tmp_path / "db", Watch(interrupt), wish=wish)
    cut = {each: _measured(each, tmp_path / "db") for each in cases}
    assert all(cut.values())
    assert _run(cases, tmp_path / "db", Watch())
    for each in cases:
        found = _measured(each, tmp_path / "db")
        assert len(found) == len(dict(found)) == POINTS
        assert set(cut[each]) <= set(found)


@pytest.mark.slow
def test_a_search_that_finds_nothing_or_dies_does_not_stop_the_others(tmp_path: Path) -> None:
    sound = _planned(TWO, 2, 3)
    wrong = _planned(TWO, 4, space=WrongScores.name)
    deadly = _planned(TWO, 5, space=DeadlyScores.name)
    watch, names = Watch(), _names([*wrong, *deadly, *sound])
    assert _run([*wrong, *deadly, *sound], tmp_path, watch)
    ledger = read_ledger(ledger_path(tmp_path, "night"))
    ends = [ledger.progress[name].ended(None) for name in names]
    assert ends == ["nothing found", "nothing found", "exhausted", "exhausted"]
    assert ledger.faults == {"search died": 2}
    assert any("no correct candidate" in line for line in watch.lines)
    assert [len(_measured(each, tmp_path)) for each in sound] == [POINTS, POINTS]


@pytest.mark.slow
def test_a_device_that_is_lost_costs_the_others_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = _planned(TWO, 2, 3, 4)
    monkeypatch.setenv("FAULT_OF_1", "instant")
    with pytest.raises(NoDeviceError, match="GPU 1 is set aside"):
        _run(cases, tmp_path, Watch())
    ledger = read_ledger(ledger_path(tmp_path, "night"))
    ends = [ledger.progress[name].ended(None) for name in _names(cases)]
    assert ends == ["exhausted", "", "exhausted"]
    monkeypatch.delenv("FAULT_OF_1")
    assert _run(cases, tmp_path, Watch())
    for each in cases:
        assert len(_measured(each, tmp_path)) == POINTS


@pytest.mark.thorough
def test_nothing_is_searched_beside_a_search_that_times_on_this_cpu(tmp_path: Path) -> None:
    here, there = _planned(HERE, 2, 3), _planned(TWO, 4, 5)
    watch = Watch()
    assert _run([*here[:1], *there, *here[1:]], tmp_path, watch)
    assert {frozenset([name]) for name in _names(here)} <= watch.together
    assert frozenset(_names(there)) in watch.together
    assert all(len(each) == 1 for each in watch.together if each & {*_names(here)})


def test_devices_are_shared_evenly() -> None:
    five = tuple(Device("tracker:1", "h100", number) for number in range(5))
    first = share(five, (), 2)
    second = share(five, first, 1)
    assert (len(first), len(second), set(first) & set(second)) == (2, 3, set())
    assert share(five, five, 1) == ()
    assert share(five, (), 1) == five
    assert most_at_once([five], None, 64) == {five: 2}
    assert most_at_once([five], None, 1) == {five: 1}
    assert most_at_once([five, TWO], 4, 1) == {five: 2, TWO: 2}
