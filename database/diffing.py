"""What differs between two sets of records."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .entry import Entry


@dataclass(frozen=True)
class Change:
    """Something before and after; one of the two may be missing.

    Parameters
    ----------
    before, after : Entry, optional
        At least one of them.
    """

    before: Entry | None
    after: Entry | None

    @property
    def kind(self) -> str:
        """``added``, ``removed`` or ``changed``."""
        if self.before is None:
            return "added"
        return "removed" if self.after is None else "changed"

    @property
    def ratio(self) -> float | None:
        """Median time after over before; ``None`` unless both are there."""
        if self.before is None or self.after is None:
            return None
        return self.after.provenance.median_secs / self.before.provenance.median_secs


def diff(before: Iterable[Entry], after: Iterable[Entry]) -> list[Change]:
    """The records that only one side has, or that were measured again.

    Returns
    -------
    list of Change
        In the order of spec, shape, space, lens and time.
    """
    old = {entry.record_id: entry for entry in before}
    new = {entry.record_id: entry for entry in after}
    changes = [
        Change(old.get(id_), new.get(id_)) for id_ in old | new if old.get(id_) != new.get(id_)
    ]
    return sorted(changes, key=_order)


def diff_best(before: Iterable[Entry], after: Iterable[Entry]) -> list[Change]:
    """What changed of the fastest record of each (spec, shape, space, lens)."""
    old, new = _fastest(before), _fastest(after)
    changes = [
        Change(old.get(group), new.get(group))
        for group in old | new
        if old.get(group) != new.get(group)
    ]
    return sorted(changes, key=_order)


def _fastest(entries: Iterable[Entry]) -> dict[tuple[str, ...], Entry]:
    ordered = sorted(entries, key=lambda entry: entry.speed, reverse=True)
    return {entry.group: entry for entry in ordered}


def _order(change: Change) -> tuple:
    entry = change.after or change.before
    assert entry is not None
    return entry.group, entry.speed
