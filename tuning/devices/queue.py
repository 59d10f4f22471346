"""Who gets which slot of a pool: those who wait are served in the order of their coming."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from .slot import Slot


@dataclass(eq=False)
class Turn:
    """Someone who waits for a slot, another than ``avoided`` if there is one."""

    avoided: Slot | None
    came: threading.Condition
    slot: Slot | None = None

    def take(self) -> Slot | None:
        """The slot that was handed out, if one was."""
        slot, self.slot = self.slot, None
        return slot

    def wait(self, seconds: float) -> None:
        """Wait for a slot; others have the queue's lock meanwhile."""
        self.came.wait(seconds)


class SlotQueue:
    """Slots that are ready, and those who wait for one; for any thread.

    Parameters
    ----------
    slots : Sequence[Slot]
        All that there are. None of them is ready at first.

    Attributes
    ----------
    lock : threading.RLock
        Held while slots are handed out. What decides on it elsewhere holds it too.
    turns : deque[Turn]
        Of those who wait, or have been handed a slot that they are yet to take.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.lock = threading.RLock()
        self.turns: deque[Turn] = deque()
        self._slots = slots
        self._ready: deque[Slot] = deque()

    def clear(self) -> None:
        """Have no slot ready."""
        with self.lock:
            self._ready.clear()

    def put(self, slot: Slot, *, first: bool = False) -> None:
        """Have a slot ready, as the first or the last that is handed out; not if it is aside."""
        with self.lock:
            if slot.aside:
                return
            if first:
                self._ready.appendleft(slot)
            else:
                self._ready.append(slot)
            self.hand_out()

    def remove(self, slot: Slot) -> None:
        """Have a slot ready no more, nor handed to someone who is yet to take it; once aside."""
        with self.lock:
            if slot in self._ready:
                self._ready.remove(slot)
            for turn in self.turns:
                if turn.slot is slot:
                    turn.slot = None
            self.hand_out()

    @contextmanager
    def turn(self, avoided: Slot | None) -> Iterator[Turn]:
        """Wait for a slot, under the lock; what was handed out and not taken is given back."""
        with self.lock:
            turn = Turn(avoided, threading.Condition(self.lock))
            self.turns.append(turn)
            self.hand_out()
            try:
                yield turn
            finally:
                self.turns.remove(turn)
                if turn.slot is not None:
                    self.put(turn.slot, first=True)

    def hand_out(self) -> None:
        """Give ready slots to those who wait, in the order of their coming.

        If they raced for slots, one could wait for long while others pass, and a search that learns
        from its candidates in their order would wait for that one.
        """
        with self.lock:
            for turn in list(self.turns):
                if not self._ready:
                    return
                slot = self._slot_for(turn) if turn.slot is None else None
                if slot is not None:
                    self._ready.remove(slot)
                    turn.slot = slot
                    turn.came.notify()

    def wake(self) -> None:
        """Have all who wait look whether there is still something to wait for."""
        with self.lock:
            for turn in self.turns:
                turn.came.notify()

    def _slot_for(self, turn: Turn) -> Slot | None:
        """The first ready slot that a turn does not avoid; that one too if it is the only one."""
        for slot in self._ready:
            if slot is not turn.avoided or self._in_use() == [slot]:
                return slot
        return None

    def _in_use(self) -> list[Slot]:
        return [slot for slot in self._slots if not slot.aside]
