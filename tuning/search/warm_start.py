"""What was found for near workloads, as first candidates for another."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable
from typing import Any

from ...database import Entry, RecordStore, TargetKey, shape_distance
from ...workloads import Case, PrefillShape, PrefillSpec
from .trial_log import Trial

# Of one target no more than leave some to the next.
_MOST, _MOST_OF_ONE = 6, 4

# Beside the logarithm of a ratio of sizes: a dtype of the same width; a window with an end where
# the other is open, so that of a trace the decisions alone fit; other lengths of the same shape,
# which may be less work and so faster; another layout, or padding that is left otherwise; and each
# target that is nearer: what another GPU of the architecture, or a CPU's level, has for a workload
# is better than what the target has for one that is far away.
_OTHER_DTYPE, _OTHER_ENDS, _OTHER_LENGTHS, _OTHER_LAYOUT = 0.5, 1.0, 0.1, 0.05
_OTHER_TARGET = 0.5


def nearest_trials(
    store: RecordStore, case: Case, spaces: Collection[str], others: Iterable[RecordStore] = ()
) -> list[Trial]:
    """The fastest records of the workloads nearest to a case, as trials without times.

    Nearest are those of the case itself, which no log may have; near are other shapes, lengths,
    numbers of heads, windows, layouts, dtypes of the same width, and targets.

    Parameters
    ----------
    store : RecordStore
        That the search is for.
    spaces : Collection[str]
        Of which design spaces.
    others : Iterable[RecordStore]
        That hold records of the target too, or of targets near to it, the nearest first.

    Returns
    -------
    list[Trial]
        The nearest first; of one workload and target, the fastest first. Each once.
    """
    found: list[tuple[float, Trial]] = []
    targets: list[TargetKey] = []
    for each in (store, *others):
        if each.key not in targets:
            targets.append(each.key)
        farther = _OTHER_TARGET * targets.index(each.key)
        near = [
            (distance, entry.speed, entry)
            for entry in each.entries
            if entry.provenance.space in spaces and (distance := _distance(entry, case)) is not None
        ]
        near.sort(key=lambda each: each[:2])
        trials = ((farther + distance, _as_trial(entry, case.spec)) for distance, _, entry in near)
        found += _distinct(trials, _MOST_OF_ONE)
    found.sort(key=lambda each: each[0])
    return [trial for _, trial in _distinct(found, _MOST)]


def _distinct(near: Iterable[tuple[float, Trial]], most: int) -> list[tuple[float, Trial]]:
    """The first trials that differ, with how far away they are."""
    found: dict[str, tuple[float, Trial]] = {}
    for distance, trial in near:
        found.setdefault(trial.identity, (distance, trial))
        if len(found) == most:
            break
    return [*found.values()]


def _as_trial(entry: Entry, spec: PrefillSpec) -> Trial:
    of = entry.provenance
    return Trial(of.space, dict(of.variant), _trace_for(entry, spec))


def _trace_for(entry: Entry, spec: PrefillSpec) -> Any:
    """The trace of a record with the instructions of another dtype, which are in their names."""
    dtype = PrefillSpec.parse(entry.provenance.spec).dtype
    if dtype == spec.dtype:
        return entry.trace
    names = rf'("prefill_\w*)_{dtype}(?=[_"])'
    return json.loads(re.sub(names, rf"\1_{spec.dtype}", json.dumps(entry.trace)))


def _form(spec: PrefillSpec) -> tuple[object, ...]:
    """What descriptions are built of, whatever the numbers, but for windows."""
    return spec.softcap is None, spec.bias


def _open_ends(spec: PrefillSpec) -> tuple[bool, ...]:
    return tuple(end is None for end in spec.window)


def _is_alike(spec: PrefillSpec, other: PrefillSpec) -> bool:
    """Whether one can learn from another; packed sequences, from those padded on either side."""
    same_side = spec.padding == other.padding or spec.is_packed or other.is_packed
    return same_side and _form(spec) == _form(other)


def _distance(entry: Entry, case: Case) -> float | None:
    """How near the workload of a record is; ``None`` if nothing can be learnt from it."""
    spec, other = PrefillSpec.known(entry.provenance.spec), case.spec
    if spec is None:
        return None
    same_width = spec.dtype == other.dtype or "float32" not in (spec.dtype, other.dtype)
    if spec.head_dim != other.head_dim or not _is_alike(spec, other) or not same_width:
        return None
    shapes = shape_distance(PrefillShape.parse(entry.provenance.shape), case.shape)
    heads = abs(math.log2(spec.num_qo_heads / other.num_qo_heads))
    groups = abs(math.log2(spec.group_size / other.group_size))
    of_dtype = _OTHER_DTYPE * (spec.dtype != other.dtype)
    of_window = _OTHER_ENDS * (_open_ends(spec) != _open_ends(other))
    of_lengths = _OTHER_LENGTHS * (entry.provenance.lens != case.lens.text)
    alike = (spec.layout, spec.padding_output) == (other.layout, other.padding_output)
    of_layout = _OTHER_LAYOUT * (not alike)
    return shapes + heads + groups + of_dtype + of_window + of_lengths + of_layout
