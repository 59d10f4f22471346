"""How a pool compares, blames and hands out slots, each by itself and without any process."""

from __future__ import annotations

import math
import threading
import time
from typing import Any

import pytest

from prefilltune.tuning.devices.calibration import Gate
from prefilltune.tuning.devices.health import Health, Inquiry, Suspect, trouble_of
from prefilltune.tuning.devices.job import Call, Job
from prefilltune.tuning.devices.queue import SlotQueue
from prefilltune.tuning.devices.slot import Slot
from prefilltune.tuning.errors import NoDeviceError
from prefilltune.tuning.measuring.cpu import Measurement
from prefilltune.tuning.measuring.worker import Outcome

NO_RUNNER: Any = None
JOB = Job(Call(print, (), 1.0), lambda: None, 1e-6, 2.0, threading.Event())


def _slots(*calibrations: float) -> list[Slot]:
    return [
        Slot(f"device {number}", NO_RUNNER, calibration=seconds)
        for number, seconds in enumerate(calibrations)
    ]


def test_slots_wait_for_one_another_and_then_no_more() -> None:
    slots = _slots(1.0, 1.1, 5.0)
    gate = Gate(slots, likeness=2.0)
    for slot in slots[:2]:
        gate.arrive(slot)
        assert gate.let_in() == []
    gate.arrive(slots[2])
    differences = dict(gate.let_in())
    assert [bool(differences[slot]) for slot in slots] == [False, False, True]
    assert gate.let_in() == []
    gate.arrive(slots[0])  # brought up again
    assert gate.let_in() == [(slots[0], "")]


def test_slots_wait_neither_for_one_set_aside_nor_for_one_that_is_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slots = _slots(1.0, math.nan)
    gate = Gate(slots, likeness=2.0)
    gate.arrive(slots[0])
    slots[1].aside = "unusable"
    assert gate.let_in() == [(slots[0], "")]
    slots = _slots(1.0, 1.0)
    gate = Gate(slots, likeness=2.0)
    gate.arrive(slots[0])
    assert gate.let_in() == []
    later = time.monotonic() + 3600
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert gate.let_in() == [(slots[0], "")]


@pytest.mark.parametrize(
    ("outcome", "trouble"),
    [
        (Outcome("ok", Measurement(0.0, (1e-3,))), ""),
        (Outcome("ok", Measurement(math.inf, (), "device fault", "", fatal=True)), ""),
        (Outcome("ok", Measurement(math.nan, (1e-3,))), "garbage"),
        (Outcome("ok", Measurement(0.0, (1e-3, 1e-7))), "garbage"),
        (Outcome("ok", {"seconds": 1.0}), "garbage"),
        (Outcome("crash"), "crash"),
    ],
)
def test_a_reply_that_makes_no_sense_is_garbage(outcome: Outcome, trouble: str) -> None:
    assert trouble_of(outcome, JOB) == trouble


def test_harm_twice_is_the_candidates_but_never_garbage() -> None:
    first, second = _slots(1.0, 1.0)
    inquiry = Inquiry([Suspect(first, "garbage"), Suspect(second, "lost")])
    assert not inquiry.convicts_candidate
    inquiry.suspects.append(Suspect(first, "crash"))
    assert not inquiry.convicts_candidate
    inquiry.suspects.append(Suspect(second, "timeout"))
    assert inquiry.convicts_candidate
    assert [each.trouble for each in inquiry.guilty] == ["garbage", "lost"]


def test_a_slot_is_set_aside_for_many_faults_that_are_a_large_share() -> None:
    (slot,) = _slots(1.0)
    health = Health([slot])
    slot.calls = 100
    assert [health.blame(Suspect(slot, "crash")) for _ in range(25)] == [""] * 25
    reason = health.blame(Suspect(slot, "lost"))
    assert reason == "26 of 100 calls failed"
    health.set_aside(slot, reason, "faulty device")
    assert health.faults == {"crash": 25, "lost": 1, "faulty device": 1}
    with pytest.raises(NoDeviceError, match="device 0 is set aside: 26 of 100 calls failed"):
        health.require_slots()


def test_a_slot_that_is_avoided_is_handed_out_only_where_there_is_no_other() -> None:
    first, second = _slots(1.0, 1.0)
    queue = SlotQueue([first, second])
    queue.put(first)
    with queue.turn(first) as turn:
        assert turn.take() is None
        queue.put(second)
        assert turn.take() is second
    with queue.turn(first) as turn:
        second.aside = "faulty"
        queue.remove(second)
        assert turn.take() is first


def test_a_slot_that_is_set_aside_is_handed_out_no_more() -> None:
    first, second, third = _slots(1.0, 1.0, 1.0)
    queue = SlotQueue([first, second, third])
    queue.put(first)
    first.aside = "faulty"  # while it lies ready
    queue.remove(first)
    with queue.turn(None) as turn:
        assert turn.take() is None
        queue.put(second)
        second.aside = "faulty"  # handed out, and not taken yet
        queue.remove(second)
        assert turn.take() is None
        queue.put(third)
        assert turn.take() is third


def test_a_slot_that_is_handed_out_and_not_taken_is_the_next_again() -> None:
    first, second = _slots(1.0, 1.0)
    queue = SlotQueue([first, second])
    queue.put(first)
    queue.put(second)
    with queue.turn(None):
        pass
    with queue.turn(None) as turn:
        assert turn.take() is first
