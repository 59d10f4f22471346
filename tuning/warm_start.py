"""What was found for near shapes, as first candidates for another."""

from __future__ import annotations

from collections.abc import Collection

from ..database import Entry, RecordStore, shape_distance
from ..workloads import PrefillShape, PrefillSpec
from .trial_log import Trial

_MOST = 4


def nearest_trials(
    store: RecordStore, spec: PrefillSpec, shape: PrefillShape, spaces: Collection[str]
) -> list[Trial]:
    """The fastest records of the shapes nearest to ``shape``, as trials without times.

    Parameters
    ----------
    store : RecordStore
        Of the target.
    spec : PrefillSpec
        Whose records.
    spaces : Collection[str]
        Of which design spaces.

    Returns
    -------
    list[Trial]
        Of each shape the fastest of each space and variant, the nearest shape first.
    """

    def nearness(entry: Entry) -> tuple[float, tuple[float, str]]:
        return shape_distance(PrefillShape.parse(entry.provenance.shape), shape), entry.speed

    found = [
        entry
        for entry in store.entries
        if entry.provenance.spec == str(spec)
        and entry.provenance.shape != str(shape)
        and entry.provenance.space in spaces
    ]
    found.sort(key=nearness)
    return [
        Trial(each.provenance.space, dict(each.provenance.variant), each.trace)
        for each in found[:_MOST]
    ]
