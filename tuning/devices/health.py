"""Who is to blame when a measurement fails, candidate or slot, and which slots are set aside.

A candidate that comes to harm is measured once more elsewhere. If it does well there, the slot was
to blame; a slot that is to blame too often is used no more.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..errors import NoDeviceError
from ..measuring.cpu import Measurement
from ..measuring.worker import Outcome
from .job import Job
from .slot import Slot

# What no candidate can do to a sound device: have it lost, or have it reply nonsense.
_LOST, _GARBAGE = "lost", "garbage"
# A candidate that comes to harm as often as this is to blame itself.
_HARM_BELIEVED = 2
# A candidate is given up after so many tries, of which then all but one were lost or nonsense.
_TRIES = 8
# A slot is set aside after so many faults, if they are more than this share of its calls.
_FAULTS, _FAULTY_SHARE = 3, 0.25


def trouble_of(outcome: Outcome, job: Job) -> str:
    """What is wrong with a reply that a sound candidate on a sound device cannot give."""
    if outcome.status != "ok":
        return outcome.status
    measured = outcome.value
    if not isinstance(measured, Measurement) or math.isnan(measured.error):
        return _GARBAGE
    return "" if all(map(job.is_plausible, measured.run_secs)) else _GARBAGE


@dataclass(frozen=True)
class Suspect:
    """A slot on which a candidate came to harm, and how."""

    slot: Slot
    trouble: str

    @property
    def is_guilty(self) -> bool:
        """Whether it was the slot's fault, whatever the candidate is like."""
        return self.trouble in (_LOST, _GARBAGE)


@dataclass
class Inquiry:
    """What came to harm when one candidate was measured, on one slot after the other."""

    suspects: list[Suspect] = field(default_factory=list)

    @property
    def last(self) -> Slot | None:
        """Where the candidate was tried last, which is not where it is tried next."""
        return self.suspects[-1].slot if self.suspects else None

    @property
    def is_hopeless(self) -> bool:
        """Whether the candidate was tried often enough."""
        return len(self.suspects) >= _TRIES

    @property
    def guilty(self) -> list[Suspect]:
        """Slots at fault whatever the candidate is like."""
        return [each for each in self.suspects if each.is_guilty]

    @property
    def convicts_candidate(self) -> bool:
        """Whether the candidate did as much harm as is believed to be its own."""
        return len(self.suspects) - len(self.guilty) >= _HARM_BELIEVED


class Health:
    """The faults of a pool's slots; changed under the lock of its queue.

    Parameters
    ----------
    slots : Sequence[Slot]
        All that there are.

    Attributes
    ----------
    faults : Counter[str]
        By kind.
    notes : list[str]
        For people: which slots were set aside, and why.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.faults: Counter[str] = Counter()
        self.notes: list[str] = []
        self._slots = slots

    @property
    def usable(self) -> list[Slot]:
        """Slots that were not set aside."""
        return [slot for slot in self._slots if not slot.aside]

    def blame(self, suspect: Suspect) -> str:
        """Count a fault of a slot; why the slot is no longer to be used, if it has too many."""
        slot = suspect.slot
        self.faults[suspect.trouble] += 1
        slot.faults += 1
        if slot.faults < _FAULTS or slot.faults <= _FAULTY_SHARE * slot.calls:
            return ""
        return f"{slot.faults} of {slot.calls} calls failed"

    def set_aside(self, slot: Slot, reason: str, kind: str) -> None:
        """Use a slot no more. It keeps its device, which a tracker would else hand out again."""
        slot.aside = reason
        self.faults[kind] += 1
        self.notes.append(f"{slot.name} is set aside: {reason}")

    def require_slots(self) -> None:
        """Raise NoDeviceError if no slot is left."""
        if not self.usable:
            raise NoDeviceError(f"no device is left: {'; '.join(self.notes)}")
