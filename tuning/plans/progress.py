"""How far a plan is with a workload, and what the next search for it promises."""

from __future__ import annotations

import math
from dataclasses import dataclass

# What slices that found a correct kernel are said to have gained where there is none before them.
_UNKNOWN_GAIN = 0.5
# A curve is flat if two slices together made the kernel faster by no more than this share.
_FLAT, _FLAT_SLICES = 0.01, 2


@dataclass(frozen=True)
class Slice:
    """One search of a plan for one workload.

    Parameters
    ----------
    trials : int
        Of the workload, in all searches up to its end.
    best : float or None
        Seconds of the fastest kernel up to its end; ``None`` if none is correct.
    seconds : float
        That it took.
    exhausted : bool
        Whether there is nothing left to try.
    """

    trials: int
    best: float | None
    seconds: float
    exhausted: bool = False


@dataclass(frozen=True)
class Progress:
    """What a plan has done for one workload, and why it does no more, if that is so.

    Parameters
    ----------
    slices : tuple[Slice, ...]
        The searches so far.
    """

    slices: tuple[Slice, ...] = ()

    @property
    def trials(self) -> int:
        """In all searches."""
        return self.slices[-1].trials if self.slices else 0

    @property
    def best(self) -> float | None:
        """Seconds of the fastest kernel, if there is one."""
        return self.slices[-1].best if self.slices else None

    def gain(self, back: int = 1) -> float:
        """By what share of its time the last slices made the kernel faster; 0 for none at all.

        >>> Progress((Slice(8, 2.0, 1.0), Slice(16, 1.5, 1.0))).gain()
        0.25
        """
        if len(self.slices) <= back or self.best is None:
            return _UNKNOWN_GAIN if self.best is not None else 0.0
        before = self.slices[-1 - back].best
        return 1.0 if before is None else max(0.0, 1 - self.best / before)

    def expected_gain(self) -> float:
        """Share of a kernel's time that the next slice may save, a second of search."""
        if not self.slices:
            return math.inf
        return self.gain() / 2 / max(self.slices[-1].seconds, 1e-3)

    def ended(self, most_trials: int | None) -> str:
        """Why no more is to be done; empty if there is."""
        if self.slices and self.slices[-1].exhausted:
            return "exhausted"
        if most_trials is not None and self.trials >= most_trials:
            return "all trials made"
        if len(self.slices) < _FLAT_SLICES or self.gain(_FLAT_SLICES) > _FLAT:
            return ""
        return "nothing found" if self.best is None else "flat"
