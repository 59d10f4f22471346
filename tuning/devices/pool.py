"""Devices that measure for a search, several at once, and what is done when one misbehaves.

A slot is a device and the process that runs kernels on it. Slots are brought up in the background
and wait at a gate (:mod:`.calibration`) until they are known to be alike. Then they are handed to
those who measure (:mod:`.queue`), unless they turn out to be faulty (:mod:`.health`).
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from ...workloads import PrefilltuneError
from ..errors import SearchEndingError, WorkerFailedError
from ..measuring.worker import Outcome
from .calibration import Gate, calibrate
from .health import Health, Inquiry, Suspect, trouble_of
from .job import Job
from .machine import Machine, Wanted, describe
from .queue import SlotQueue
from .slot import Runner, Slot

# How often it is tried to bring a slot up, until it is set aside.
_ATTEMPTS = 3


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
        self._wanted = wanted
        self._queue = SlotQueue(self.slots)
        self._health = Health(self.slots)
        self._lock = self._queue.lock
        self._gate: Gate | None = None
        self._job: Job | None = None
        self._closing = False
        self._threads = ThreadPoolExecutor(len(self.slots), "prefilltune-pool")
        self._coming_up: set[Future[None]] = set()

    @property
    def faults(self) -> Counter[str]:
        """What devices did wrong, by kind."""
        return self._health.faults

    @property
    def notes(self) -> list[str]:
        """Which slots were set aside, and why."""
        return self._health.notes

    @property
    def baseline_seconds(self) -> float:
        """Of the calibration kernel on the devices in use; nan if it was not timed."""
        known = [slot.calibration for slot in self._health.usable]
        return statistics.median([each for each in known if math.isfinite(each)] or [math.nan])

    def open(self, job: Job) -> None:
        """Bring every slot up for a job, in the background, once none is for an earlier one."""
        for each in list(self._coming_up):
            each.result()
        with self._lock:
            self._job = job
            self._queue.clear()
            usable = self._health.usable
            self._gate = Gate(usable, job.likeness)
        for slot in usable:
            slot.calibration = math.nan
            self._bring_up_later(slot)

    def wait_until_ready(self) -> None:
        """Wait for the first slot.

        Raises
        ------
        NoDeviceError
            If there will be none.
        """
        slot = self._take()
        if slot is not None:
            self._queue.put(slot, first=True)

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
        inquiry, outcome = Inquiry(), Outcome("cancelled")
        while not inquiry.is_hopeless:
            slot = self._take(inquiry.last)
            if slot is None:
                return Outcome("cancelled")
            outcome = _call(slot, function, *args, timeout=timeout)
            slot.calls += 1
            trouble = trouble_of(outcome, self._current_job)
            if not trouble:
                self._blame(inquiry.suspects)
                if outcome.value.fatal:
                    self._bring_up_later(slot, restart=True)
                else:
                    self._queue.put(slot)
                return outcome
            inquiry.suspects.append(Suspect(slot, trouble))
            self._bring_up_later(slot, restart=True)
            if inquiry.convicts_candidate:
                self._blame(inquiry.guilty)
                return outcome
        self._blame(inquiry.suspects)
        self._health.require_slots()  # where none is left, the candidate is not to blame
        tries = len(inquiry.suspects)
        return Outcome("error", detail=f"given up after {tries} tries: {outcome.detail}")

    @contextmanager
    def lease(self) -> Iterator[Runner]:
        """Have one slot's runner to oneself.

        Whatever is raised meanwhile is passed on, and the slot then gets a new process.

        Raises
        ------
        NoDeviceError
            If no slot is left.
        SearchEndingError
            If the search ended first.
        """
        slot = self._take()
        if slot is None:
            raise SearchEndingError("the search is ending, and its devices are given back")
        try:
            yield slot.runner
        except BaseException:
            self._bring_up_later(slot, restart=True)
            raise
        self._queue.put(slot, first=True)

    def close(self) -> None:
        """Give every device back."""
        with self._lock:
            self._closing = True
            self._queue.wake()
        for slot in self.slots:
            slot.runner.abort()
        self._threads.shutdown(wait=True)
        for slot in self.slots:
            slot.runner.close(kill=True)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def _current_job(self) -> Job:
        assert self._job is not None, "the pool has not been opened"
        return self._job

    def _is_closing(self) -> bool:
        return self._closing

    def _bring_up_later(self, slot: Slot, *, restart: bool = False) -> None:
        with self._lock:
            if self._closing or slot.aside:
                return
            coming_up = self._threads.submit(self._bring_up, slot, restart)
            self._coming_up.add(coming_up)
        coming_up.add_done_callback(self._coming_up.discard)

    def _bring_up(self, slot: Slot, restart: bool) -> None:
        """Make a slot ready, or set it aside; runs in a thread of the pool."""
        job, reason = self._current_job, ""
        for attempt in range(_ATTEMPTS):
            if self._closing:
                return
            try:
                if restart or attempt:
                    slot.calibration = math.nan  # it may have become another device
                    slot.runner.restart()
                reason = self._prepare(slot, job) or calibrate(slot, job, self._is_closing)
            except (PrefilltuneError, OSError) as error:
                reason = str(error)
            if not reason:
                self._arrive(slot)
                return
        self._set_aside(slot, reason, "unusable device")

    def _prepare(self, slot: Slot, job: Job) -> str:
        """Have a slot ready for a job; what is wrong with it, if anything is."""
        slot.runner.start()
        if self._wanted is not None and self.machine is not None:
            found = describe(slot.runner, self._wanted)
            if not found.is_like(self.machine):
                return (
                    f"it is {found}, and its siblings are {self.machine}: give it another key, or "
                    "install the same versions"
                )
        prepared = job.prepare.on(slot.runner)
        if prepared.status == "ok":
            return ""
        return (
            f"inputs could not be prepared ({prepared.status}: {prepared.detail}); free memory, "
            "or choose a smaller shape"
        )

    def _arrive(self, slot: Slot) -> None:
        with self._lock:
            assert self._gate is not None
            self._gate.arrive(slot)
            self._let_in()

    def _let_in(self) -> None:
        """Have slots ready that wait at the gate no longer, or set them aside; under the lock."""
        for slot, difference in self._gate.let_in() if self._gate is not None else ():
            if difference:
                self._set_aside(slot, difference, "slow device")
            else:
                self._queue.put(slot)

    def _set_aside(self, slot: Slot, reason: str, kind: str) -> None:
        with self._lock:
            if slot.aside or self._closing:  # what fails in a pool that is closed was ended by it
                return
            self._health.set_aside(slot, reason, kind)
            self._let_in()  # others may have waited for it
            self._queue.remove(slot)  # or for another than one that is now the only one

    def _blame(self, suspects: Sequence[Suspect]) -> None:
        """Count faults of slots, and set aside those that have too many."""
        with self._lock:
            for each in suspects:
                reason = self._health.blame(each)
                if reason:
                    self._set_aside(each.slot, reason, "faulty device")

    def _take(self, avoided: Slot | None = None) -> Slot | None:
        """A ready slot, another than ``avoided`` if there is one; ``None`` if the search ends."""
        with self._queue.turn(avoided) as turn:
            while not (self._closing or (self._job is not None and self._job.stopping.is_set())):
                self._let_in()
                slot = turn.take()
                if slot is not None:
                    return slot
                self._health.require_slots()
                turn.wait(1.0)  # slots that are late at the gate do not wake anyone
        return None


def _call(slot: Slot, function: Callable[..., Any], *args: Any, timeout: float) -> Outcome:
    try:
        return slot.runner.call(function, *args, timeout=timeout)
    except (WorkerFailedError, OSError) as error:
        return Outcome("lost", detail=str(error))
