"""Whether the slots of a pool are alike: all time the same kernel, and are compared by it."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence

from .job import Job
from .slot import Slot

# Slots that arrive later than the first one by this do not keep the others from measuring.
_PATIENCE = 60.0


def calibrate(slot: Slot, job: Job, is_closing: Callable[[], bool]) -> str:
    """Time the calibration kernel on a slot that has not; what is wrong with it, if anything is.

    Parameters
    ----------
    is_closing : Callable[[], bool]
        Whether the slot is being closed, which ends its calls: they say nothing of it then.
    """
    call = job.calibration()
    if call is None or math.isfinite(slot.calibration):
        return ""
    timed = call.on(slot.runner)
    if timed.status != "ok" and is_closing():
        return ""
    if timed.status != "ok":
        # The kernel may be unfit for all devices alike: the gate tells whether others can time it.
        slot.runner.restart()
        again = job.prepare.on(slot.runner)
        return "" if again.status == "ok" else f"it was lost ({again.detail})"
    if not job.is_plausible(timed.value):
        return f"it says that the calibration kernel takes {timed.value} s"
    slot.calibration = timed.value
    return ""


class Gate:
    """Where slots wait for one another, to be compared before the first of them measures.

    Used under the lock of the pool's queue.

    Parameters
    ----------
    expected : Sequence[Slot]
        Those that wait for one another.
    likeness : float
        Slots that differ by more than this factor are no siblings.
    """

    def __init__(self, expected: Sequence[Slot], likeness: float) -> None:
        self._expected = expected
        self._likeness = likeness
        self._arrived: list[Slot] = []
        self._waiting: list[Slot] = []
        self._opens = math.inf
        self._is_open = False

    def arrive(self, slot: Slot) -> None:
        """Note a slot that is ready, for the first time or once more."""
        if slot not in self._arrived:
            self._arrived.append(slot)
        self._waiting.append(slot)
        self._opens = min(self._opens, time.monotonic() + _PATIENCE)

    def let_in(self) -> list[tuple[Slot, str]]:
        """Slots that wait no longer, each with how it differs from its siblings (empty if not).

        There are none until all that are expected have arrived, or have had their time.
        """
        self._is_open = self._is_open or self._is_due()
        if not self._is_open:
            return []
        waiting, self._waiting = self._waiting, []
        return [(slot, difference(slot, self._arrived, self._likeness)) for slot in waiting]

    def _is_due(self) -> bool:
        missing = any(not each.aside and each not in self._arrived for each in self._expected)
        return bool(self._arrived) and (not missing or time.monotonic() >= self._opens)


def difference(slot: Slot, siblings: Sequence[Slot], likeness: float) -> str:
    """How a slot differs from its siblings, itself among them; empty if it is like them.

    Parameters
    ----------
    likeness : float
        Factor that times may differ by.
    """
    known = [each.calibration for each in siblings if not each.aside]
    known = [each for each in known if math.isfinite(each)]
    if not known or len(siblings) < 2:
        return ""
    if not math.isfinite(slot.calibration):
        return "it cannot time the calibration kernel, which its siblings can"
    # Among three or more, the median is right though one is wrong. Of two, the faster is believed:
    # whatever disturbs a device makes it slower.
    has_median = len(known) > 2
    times = slot.calibration / (statistics.median(known) if has_median else min(known))
    if times > likeness or (has_median and times < 1 / likeness):
        return (
            f"it takes {slot.calibration * 1e3:.4g} ms for the calibration kernel, "
            f"{times:.2g} times what its siblings take"
        )
    return ""
