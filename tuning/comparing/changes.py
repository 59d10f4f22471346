"""What differs between two comparisons of the same cases: better, worse, or within noise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.table import Table

from .comparison import Comparison
from .report import short_title

#: Kinds of change, the gravest first.
WORSE, GONE, BETTER, NEW, SAME = "worse", "gone", "better", "new", "same"

#: A time this much longer, as a share, is no regression on any device: clocks and placement move
#: that far between runs whose own spread is smaller.
TOLERANCE = 0.03


@dataclass(frozen=True)
class Change:
    """A case before and after; one of the two may be missing.

    Parameters
    ----------
    before, after : Comparison or None
        At least one of them.
    """

    before: Comparison | None
    after: Comparison | None

    @property
    def case(self) -> Comparison:
        """The case that it is about, as it is now if it still is."""
        found = self.after or self.before
        assert found is not None
        return found

    @property
    def ratio(self) -> float | None:
        """The tuned kernel's time after over before; None unless both are there."""
        if self.before is None or self.after is None:
            return None
        return self.after.tuned_ms / self.before.tuned_ms

    @property
    def noise(self) -> float:
        """How far the ratio may lie from 1 without meaning anything."""
        sides = [each for each in (self.before, self.after) if each is not None]
        spread = sum(each.spread_ms.get("tuned", 0.0) / each.tuned_ms for each in sides)
        return max(TOLERANCE, spread)

    @property
    def kind(self) -> str:
        """One of :data:`WORSE`, :data:`GONE`, :data:`BETTER`, :data:`NEW` and :data:`SAME`."""
        if self.ratio is None:
            return NEW if self.before is None else GONE
        if self.ratio > 1 + self.noise:
            return WORSE
        return BETTER if self.ratio < 1 / (1 + self.noise) else SAME


def changes(before: Iterable[Comparison], after: Iterable[Comparison]) -> list[Change]:
    """Every case of either side, the gravest change first."""
    old = {each.case: each for each in before}
    new = {each.case: each for each in after}
    found = [Change(old.get(case), new.get(case)) for case in dict.fromkeys([*old, *new])]
    kinds = (WORSE, GONE, BETTER, NEW, SAME)
    return sorted(found, key=lambda each: (kinds.index(each.kind), -_size(each)))


def counted(found: Sequence[Change]) -> str:
    """How many there are of each kind, in words.

    >>> counted([])
    'nothing was compared'
    """
    kinds = [each.kind for each in found]
    said = [f"{kinds.count(kind)} {kind}" for kind in (WORSE, GONE, BETTER, NEW, SAME)]
    return ", ".join(each for each in said if not each.startswith("0 ")) or "nothing was compared"


def change_table(found: Sequence[Change]) -> Table:
    """What changed, for the terminal; what stayed the same is left out."""
    shown = Table(
        "change", "case", "lengths", "before, ms", "now, ms", "now over before", "noise",
    )  # fmt: skip
    for each in found:
        if each.kind != SAME:
            ratio = "" if each.ratio is None else f"{each.ratio:.2f}x"
            noise = "" if each.ratio is None else f"{each.noise:.0%}"
            shown.add_row(each.kind, short_title(each.case), each.case.lens, _ms(each.before),
                          _ms(each.after), ratio, noise)  # fmt: skip
    return shown


def _ms(comparison: Comparison | None) -> str:
    return "" if comparison is None else f"{comparison.tuned_ms:.4g}"


def _size(change: Change) -> float:
    """How large, whichever way."""
    return 0.0 if change.ratio is None else max(change.ratio, 1 / change.ratio)
