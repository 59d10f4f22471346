"""Devices that measure for a search, several at once, and what is done when one misbehaves.

A slot is a device and the process that runs kernels on it. A candidate that comes to harm is
measured once more elsewhere: if it does well there, the slot was to blame, and a slot that is to
blame too often is set aside. So is one that takes another time than its siblings for the same
kernel.
"""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ...workloads import Case, PrefilltuneError, useful_flops
from ..errors import NoDeviceError, WorkerFailedError
from ..measuring.cpu import Measurement
from ..measuring.engines import ENGINES
from ..measuring.worker import Outcome
from ..target import ResolvedTarget
from .machine import Machine, Wanted, describe

_PREPARE_TIMEOUT = 300.0
_BASELINE_TIMEOUT = 60.0
_CALIBRATION_SECONDS = 0.05

# Of bringing a device up for a case, one after another.
_ATTEMPTS = 3
# Devices that take longer than the first one by this join later.
_PATIENCE = 60.0
# A candidate that comes to harm as often as this is to blame itself.
_HARM_BELIEVED = 2
# Measurements that make no sense, or devices lost, until a candidate is given up.
_TRIES = 8
# A slot is set aside after so many faults, if they are more than this share of its calls.
_FAULTS, _FAULTY_SHARE = 3, 0.25
# No device makes as many floating-point operations a second, and none can be called as fast.
_FASTEST_FLOPS, _FASTEST_CALL = 1e17, 1e-7


class Runner(Protocol):
    """A process that calls functions one at a time: a worker, or a device elsewhere."""

    def start(self) -> None:
        """Get ready; raises WorkerFailedError if that is impossible."""
        ...

    def restart(self) -> None:
        """Take a new process for kernels, whatever the last one suffered."""
        ...

    def call(self, function: Callable[..., Any], *args: Any, timeout: float) -> Outcome:
        """Call a function of an engine; ``lost`` if the device cannot be reached."""
        ...

    def close(self, *, kill: bool = False) -> None:
        """End the process; a later call starts another one."""
        ...

    def abort(self) -> None:
        """End a call that is under way, from any thread."""
        ...


@dataclass(eq=False)
class Slot:
    """A device of a pool.

    Parameters
    ----------
    name : str
        For people.
    runner : Runner
        Used by one thread at a time.
    calls, faults : int
        Measurements, and those that failed though the candidate was sound.
    calibration : float
        Seconds of the calibration kernel; nan if it was not timed.
    aside : str
        Why it is used no more; empty if it is.
    """

    name: str
    runner: Runner
    calls: int = 0
    faults: int = 0
    calibration: float = math.nan
    aside: str = ""


@dataclass(frozen=True)
class _Job:
    """What slots are brought up for."""

    case: Case
    target: ResolvedTarget
    calibration: Future[str | None] | None
    stopping: threading.Event


@dataclass
class _Gate:
    """Where slots wait for one another, to be compared before the first of them measures."""

    expected: set[Slot]
    opens: float = math.inf
    arrived: list[Slot] = field(default_factory=list)
    is_open: bool = False


@dataclass(eq=False)
class _Turn:
    """Someone who waits for a slot, another than ``avoided`` if there is one."""

    avoided: Slot | None
    came: threading.Condition
    slot: Slot | None = None


class Pool:
    """Like devices that measure for one search at a time; a context manager that closes them.

    Parameters
    ----------
    slots : Sequence[Slot]
        At least one.
    wanted : Wanted, optional
        With ``machine``: what each device is asked to describe itself as.
    machine : Machine, optional
        What each device must be, for times to be comparable; not asked when absent.
    elsewhere : bool
        Whether kernels run on other processors than the search.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        *,
        wanted: Wanted | None = None,
        machine: Machine | None = None,
        elsewhere: bool = True,
    ) -> None:
        self.slots = list(slots)
        self.elsewhere = elsewhere
        self.machine = machine
        self.faults: Counter[str] = Counter()
        self.notes: list[str] = []
        self._wanted = wanted
        self._lock = threading.RLock()
        self._ready: deque[Slot] = deque()
        self._turns: deque[_Turn] = deque()
        self._gate = _Gate(set())
        self._job: _Job | None = None
        self._closing = False
        self._raising = ThreadPoolExecutor(len(self.slots), "prefilltune-pool")
        self._under_way: set[Future[None]] = set()

    @property
    def baseline_seconds(self) -> float:
        """Of the calibration kernel on the devices in use; nan if it was not timed."""
        known = [slot.calibration for slot in self.slots if not slot.aside]
        return statistics.median([each for each in known if math.isfinite(each)] or [math.nan])

    def open(
        self,
        case: Case,
        target: ResolvedTarget,
        stopping: threading.Event,
        calibration: Future[str | None] | None = None,
    ) -> None:
        """Bring every slot up for a case, in the background.

        Parameters
        ----------
        case : Case
            What will be measured.
        target : ResolvedTarget
            What for.
        stopping : threading.Event
            While it is set, no measurement is begun.
        calibration : Future[str or None], optional
            Path of a library of the case's baseline, by which the devices are compared.
        """
        self._settle()
        with self._lock:
            self._job = _Job(case, target, calibration, stopping)
            self._ready.clear()
            usable = [slot for slot in self.slots if not slot.aside]
            self._gate = _Gate(set(usable))
        for slot in usable:
            slot.calibration = math.nan
            self._raise(slot)

    def wait_until_ready(self) -> None:
        """Wait for the first slot.

        Raises
        ------
        NoDeviceError
            If there will be none.
        """
        slot = self._take(None)
        if slot is not None:
            self._give(slot, first=True)

    def measure(self, function: Callable[..., Any], *args: Any, timeout: float) -> Outcome:
        """Measure a candidate, if need be again on other slots.

        Parameters
        ----------
        function : Callable[..., Measurement]
            Of an engine.

        Returns
        -------
        Outcome
            What the candidate is to answer for; ``cancelled`` if the search ended first.

        Raises
        ------
        NoDeviceError
            If no slot is left.
        """
        suspects: list[tuple[Slot, str]] = []
        harms: Counter[str] = Counter()
        outcome = Outcome("cancelled")
        while len(suspects) < _TRIES:
            slot = self._take(suspects[-1][0] if suspects else None)
            if slot is None:
                return Outcome("cancelled")
            outcome = _call(slot, function, *args, timeout=timeout)
            slot.calls += 1
            trouble = self._trouble(outcome)
            if not trouble:
                self._blame(suspects)
                self._put_back(slot, outcome)
                return outcome
            suspects.append((slot, trouble))
            self._raise(slot, restart=True)
            harms[trouble] += trouble not in ("lost", "garbage")
            if sum(harms.values()) == _HARM_BELIEVED:
                self._blame([each for each in suspects if each[1] in ("lost", "garbage")])
                return outcome
        self._blame(suspects)
        self._require_slots()  # where none is left, the candidate is not to blame
        return Outcome("error", detail=f"given up after {_TRIES} tries: {outcome.detail}")

    @contextmanager
    def lease(self) -> Iterator[Runner]:
        """Have one slot's runner to oneself.

        Whatever is raised meanwhile is passed on, and the slot then gets a new process.

        Raises
        ------
        NoDeviceError
            If no slot is left.
        """
        slot = self._take(None)
        if slot is None:
            raise NoDeviceError("the search is ending, and its devices are given back")
        try:
            yield slot.runner
        except BaseException:
            self._raise(slot, restart=True)
            raise
        self._give(slot, first=True)

    def close(self) -> None:
        """Give every device back."""
        with self._lock:
            self._closing = True
            for turn in self._turns:
                turn.came.notify()
        for slot in self.slots:
            slot.runner.abort()
        self._raising.shutdown(wait=True)
        for slot in self.slots:
            slot.runner.close(kill=True)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _settle(self) -> None:
        """Wait until no slot is being brought up for an earlier case."""
        for each in list(self._under_way):
            each.result()

    def _raise(self, slot: Slot, *, restart: bool = False) -> None:
        with self._lock:
            if self._closing or slot.aside:
                return
            raised = self._raising.submit(self._bring_up, slot, restart)
            self._under_way.add(raised)
        raised.add_done_callback(self._under_way.discard)

    def _bring_up(self, slot: Slot, restart: bool) -> None:
        """Make a slot ready, or set it aside; runs in a thread of the pool."""
        job, reason = self._job, ""
        assert job is not None
        for attempt in range(_ATTEMPTS):
            if self._closing:
                return
            try:
                if restart or attempt:
                    slot.calibration = math.nan  # it may have become another device
                    slot.runner.restart()
                reason = self._prepare(slot, job)
            except (PrefilltuneError, OSError) as error:
                reason = str(error)
            if not reason:
                self._arrive(slot)
                return
        if not self._closing:
            self._set_aside(slot, reason, "unusable device")

    def _prepare(self, slot: Slot, job: _Job) -> str:
        """Have a slot ready for a case; what is wrong with it, if anything is."""
        engine, case = ENGINES[job.target.kind], job.case
        slot.runner.start()
        if self._wanted is not None and self.machine is not None:
            found = describe(slot.runner, self._wanted)
            if not found.is_like(self.machine):
                return (
                    f"it is {found}, and its siblings are {self.machine}: give it another key, or "
                    "install the same versions"
                )
        lens = case.batches()
        inputs = (case.spec, case.shape, lens, case.check_lens(), case.seed)
        prepared = slot.runner.call(engine.prepare, *inputs, timeout=_PREPARE_TIMEOUT)
        if prepared.status != "ok":
            return (
                f"inputs could not be prepared ({prepared.status}: {prepared.detail}); free "
                "memory, or choose a smaller shape"
            )
        path = _path_of(job.calibration)
        if path is None or math.isfinite(slot.calibration):
            return ""
        arguments = (path, case.spec, case.shape, lens, case.seed, _CALIBRATION_SECONDS)
        timed = slot.runner.call(engine.time_baseline, *arguments, timeout=_BASELINE_TIMEOUT)
        if timed.status != "ok":
            # The baseline may be unfit for the device; its siblings will tell.
            slot.runner.restart()
            again = slot.runner.call(engine.prepare, *inputs, timeout=_PREPARE_TIMEOUT)
            return "" if again.status == "ok" else f"it was lost ({again.detail})"
        if not self._is_possible(timed.value):
            return f"it says that the calibration kernel takes {timed.value} s"
        slot.calibration = timed.value
        return ""

    def _arrive(self, slot: Slot) -> None:
        with self._lock:
            gate = self._gate
            if not gate.is_open and slot in gate.expected:
                gate.arrived.append(slot)
                gate.opens = min(gate.opens, time.monotonic() + _PATIENCE)
                self._open_if_due()
                return
            if slot not in gate.arrived:
                gate.arrived.append(slot)
            verdict = self._stands_out(slot, gate.arrived)
        if verdict:
            self._set_aside(slot, verdict, "slow device")
        else:
            self._give(slot)

    def _open_if_due(self) -> None:
        """Compare the slots once all have arrived, or have had their time; under the lock."""
        gate = self._gate
        if gate.is_open or not gate.arrived:
            return
        missing = any(not each.aside and each not in gate.arrived for each in gate.expected)
        if missing and time.monotonic() < gate.opens:
            return
        gate.is_open = True
        verdicts = [(slot, self._stands_out(slot, gate.arrived)) for slot in gate.arrived]
        for slot, verdict in verdicts:
            if verdict:
                self._set_aside(slot, verdict, "slow device")
            else:
                self._ready.append(slot)
        self._hand_out()

    def _stands_out(self, slot: Slot, siblings: Sequence[Slot]) -> str:
        """In what way a slot is unlike its siblings; empty if it is like them."""
        assert self._job is not None
        known = [each.calibration for each in siblings if not each.aside]
        known = [each for each in known if math.isfinite(each)]
        if not known or len(siblings) < 2:
            return ""
        if not math.isfinite(slot.calibration):
            return "it cannot time the calibration kernel, which its siblings can"
        likeness = ENGINES[self._job.target.kind].likeness
        trusted = len(known) > 2  # of two, none can tell which is right but that waits only add
        reference = statistics.median(known) if trusted else min(known)
        times = slot.calibration / reference
        if times > likeness or (trusted and times < 1 / likeness):
            return (
                f"it takes {slot.calibration * 1e3:.4g} ms for the calibration kernel, "
                f"{times:.2g} times what its siblings take"
            )
        return ""

    def _set_aside(self, slot: Slot, reason: str, kind: str) -> None:
        with self._lock:
            if slot.aside:
                return
            slot.aside = reason
            self.faults[kind] += 1
            self.notes.append(f"{slot.name} is set aside: {reason}")
            # It keeps its device: given back, the device would be handed out again.
            self._open_if_due()
            self._hand_out()

    def _blame(self, suspects: Sequence[tuple[Slot, str]]) -> None:
        """Count faults of slots, and set aside those that have too many."""
        for slot, kind in suspects:
            with self._lock:
                self.faults[kind] += 1
                slot.faults += 1
                faulty = slot.faults >= _FAULTS and slot.faults > _FAULTY_SHARE * slot.calls
            if faulty:
                self._set_aside(
                    slot, f"{slot.faults} of {slot.calls} calls failed", "faulty device"
                )

    def _trouble(self, outcome: Outcome) -> str:
        """What is wrong with a reply that a sound candidate on a sound device cannot give."""
        if outcome.status != "ok":
            return outcome.status
        measured = outcome.value
        if not isinstance(measured, Measurement) or math.isnan(measured.error):
            return "garbage"
        possible = all(self._is_possible(seconds) for seconds in measured.run_secs)
        return "" if possible else "garbage"

    def _is_possible(self, seconds: Any) -> bool:
        assert self._job is not None
        case = self._job.case
        flops = min(
            useful_flops(case.spec, case.shape, np.asarray(lens)) for lens in case.batches()
        )
        fastest = max(_FASTEST_CALL, flops / _FASTEST_FLOPS)
        return isinstance(seconds, float) and math.isfinite(seconds) and seconds >= fastest

    def _put_back(self, slot: Slot, outcome: Outcome) -> None:
        if outcome.value.fatal:
            self._raise(slot, restart=True)
        else:
            self._give(slot)

    def _take(self, avoided: Slot | None) -> Slot | None:
        """A ready slot, another than ``avoided`` if there is one; ``None`` if the search ends."""
        with self._lock:
            turn = _Turn(avoided, threading.Condition(self._lock))
            self._turns.append(turn)
            try:
                while not self._is_ending():
                    self._open_if_due()
                    self._hand_out()
                    if turn.slot is not None:
                        slot, turn.slot = turn.slot, None
                        return slot
                    self._require_slots()
                    turn.came.wait(1.0)
                return None
            finally:
                if turn in self._turns:
                    self._turns.remove(turn)
                if turn.slot is not None:
                    self._give(turn.slot, first=True)

    def _require_slots(self) -> None:
        if all(slot.aside for slot in self.slots):
            raise NoDeviceError(f"no device is left: {'; '.join(self.notes)}")

    def _is_ending(self) -> bool:
        return self._closing or (self._job is not None and self._job.stopping.is_set())

    def _hand_out(self) -> None:
        """Give ready slots to those who wait, in the order of their coming; under the lock.

        Whoever raced for a slot instead could wait for long while others pass, and arms learn from
        candidates in the order of their proposal.
        """
        for turn in list(self._turns):
            if not self._ready:
                return
            usable = [slot for slot in self.slots if not slot.aside] if turn.avoided else []
            for slot in self._ready:
                if slot is not turn.avoided or usable == [turn.avoided]:
                    self._ready.remove(slot)
                    self._turns.remove(turn)
                    turn.slot = slot
                    turn.came.notify()
                    break

    def _give(self, slot: Slot, *, first: bool = False) -> None:
        with self._lock:
            if slot.aside:
                return
            if first:
                self._ready.appendleft(slot)
            else:
                self._ready.append(slot)
            self._hand_out()


def _call(slot: Slot, function: Callable[..., Any], *args: Any, timeout: float) -> Outcome:
    try:
        return slot.runner.call(function, *args, timeout=timeout)
    except (WorkerFailedError, OSError) as error:
        return Outcome("lost", detail=str(error))


def _path_of(calibration: Future[str | None] | None) -> str | None:
    """A library to compare devices by; without one, they are taken as they are."""
    try:
        return calibration.result() if calibration is not None else None
    except PrefilltuneError:
        return None
