"""From a trace to a scheduled kernel: the one way, whether a search or a record has the trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...database import (
    Entry,
    Provenance,
    StaleRecordError,
    apply_trace,
    entry_from,
    redescribed,
    schedule,
    trace_to_json,
)
from ...workloads import PackedShape, PrefillShape, PrefillSpec, SymbolicShape
from ..spaces import SPACES, DesignSpace, Variant
from .describing import describe, describe_as_tuned, describe_for_every_shape
from .finishing import finished


@dataclass(frozen=True)
class Replayed:
    """A trace on the description of its workload.

    Parameters
    ----------
    module : tvm.IRModule
        Scheduled; :func:`~.finishing.finished` is yet to pipeline its loops.
    trace : tvm.s_tir.schedule.Trace
        As this version of TVM has it.
    """

    module: Any
    trace: Any

    def entry(self, run_secs: Sequence[float], target: Any, provenance: Provenance) -> Entry:
        """The record of it: :func:`~prefilltune.database.entry_from`."""
        spec, shape = PrefillSpec.parse(provenance.spec), PrefillShape.parse(provenance.shape)
        description = describe(provenance.space, spec, shape, provenance.variant)
        symbolic = describe_for_every_shape(provenance.space, spec, provenance.variant)
        return entry_from(description, self.trace, run_secs, target, provenance, symbolic)


def replay(
    space: DesignSpace,
    spec: PrefillSpec,
    shape: PrefillShape | SymbolicShape | PackedShape,
    variant: Variant,
    trace: Any,
    *,
    decisions_alone: bool = False,
) -> Replayed:
    """Apply a trace to the description that a design space has of a workload today.

    Parameters
    ----------
    trace : list
        MetaSchedule's JSON.
    decisions_alone : bool
        Take what the trace decides and not its instructions: for one whose description had other
        loops or instructions, of another layout, window or dtype.

    Raises
    ------
    Exception
        Of any class, by the name that TVM's C++ gives it, if the trace does not fit; a ValueError,
        if the design space decides something else on the description that it has today.
    """
    description = space.describe(spec, shape, variant)
    if decisions_alone:
        scheduled = _with_decisions(trace, space, spec, variant, description)
    else:
        scheduled = apply_trace(trace, description)
    return Replayed(scheduled.mod, scheduled.trace)


def replay_record(
    entry: Entry,
    sizes: PrefillShape | SymbolicShape | PackedShape | None = None,
    spec: PrefillSpec | None = None,
) -> Any:
    """Apply the trace of a record to the description that it was tuned on.

    Parameters
    ----------
    entry : Entry
        The record.
    sizes : PrefillShape or SymbolicShape, optional
        The kernel's sizes, in the place of the shape that the record was tuned on.
    spec : PrefillSpec, optional
        The kernel's, one of those that the record serves: a record's own, or one of which it is
        among the :attr:`~prefilltune.workloads.PrefillSpec.same_kernels`, but for the window and
        the dtype (:meth:`~prefilltune.database.TargetKey.dtypes_like`). The kernel computes what
        that amounts to in its sizes.

    Returns
    -------
    tvm.IRModule
        The finished kernel ``main(query, key, value, valid_lens, output, lse)``.

    Raises
    ------
    StaleRecordError
        If the record's design space is unknown, its description has changed since, or its trace
        does not replay.
    ValueError
        If ``sizes`` are given and the design space is one whose traces fit one shape alone.
    """
    space, tuned, shape, variant = origin_of(entry)
    spec = tuned if spec is None else described_as(spec, tuned, shape if sizes is None else sizes)
    sizes = None if sizes == shape else sizes
    if not space.takes(spec):
        raise StaleRecordError(
            f"{entry.place}: record {entry.record_id} of {space.name} is for {tuned.dtype}, and "
            f"nothing for {spec}; tune it for itself"
        )
    same_loops = _loops(spec) == _loops(tuned)
    if (sizes is not None or not same_loops) and not space.any_shape:
        raise ValueError(f"traces of {space.name} fit the shape alone that they were tuned on")
    description = describe(space.name, tuned, shape, variant)
    symbolic = describe_for_every_shape(space.name, tuned, variant)
    chosen = space.variant_for(spec, variant)
    onto = describe_as_tuned(space.name, spec, shape if sizes is None else sizes, chosen)
    if same_loops:
        return finished(schedule(entry, description, onto, symbolic).mod)
    schedule(entry, description, None, symbolic)  # that the record is of what is described today
    try:
        return finished(_with_decisions(entry.trace, space, spec, chosen, onto).mod)
    except _OtherDecisionsError as error:
        raise StaleRecordError(
            f"{entry.place}: record {entry.record_id} {error}; tune it for itself"
        ) from error


def described_as(
    spec: PrefillSpec, tuned: PrefillSpec, sizes: PrefillShape | SymbolicShape | PackedShape
) -> PrefillSpec:
    """The spec that a kernel is described by: it amounts to ``spec`` in the kernel's sizes.

    Its window is the one that a record was tuned with where that keeps the same pairs, so that the
    kernel is the one that was measured; else the widest one that does.

    Parameters
    ----------
    tuned : PrefillSpec
        The record's.
    """
    within, as_tuned = spec.within(sizes), replace(spec, window=tuned.window)
    return as_tuned if as_tuned.within(sizes) == within else within


def _loops(spec: PrefillSpec) -> tuple[Any, ...]:
    """What the instructions of a trace depend on; its decisions do not."""
    return spec.layout, spec.window, spec.dtype


#: The instruction that chooses among candidates, whose decision is the number of one.
_CATEGORICAL = "SampleCategorical"


class _OtherDecisionsError(ValueError):
    """A design space decides something else on one layout, window or dtype than on another."""


def _with_decisions(
    trace: Any, space: DesignSpace, spec: PrefillSpec, variant: Variant, description: Any
) -> Any:
    """The schedule of a trace's decisions on a description of another layout, window or dtype.

    Its loops are others, and so are the instructions of its trace.

    Raises
    ------
    _OtherDecisionsError
        If the design space decides something else there.
    """
    (scheduled,) = space.generator(spec, variant).generate_design_space(description)
    instructions, sampled = trace_to_json(scheduled.trace)
    places, chosen = (sorted(place for place, _ in each) for each in (sampled, trace[1]))
    if len(places) != len(chosen):
        raise _OtherDecisionsError(
            f"decides {len(chosen)} things, and {spec} has {len(places)} to decide"
        )
    values = dict(trace[1])
    decisions = [
        [place, _decided(trace[0][own], values[own], instructions[place])]
        for place, own in zip(places, chosen, strict=True)
    ]
    return apply_trace([instructions, decisions], description)


def _decided(then: Any, decision: Any, today: Any) -> Any:
    """A decision of an instruction, as one of today's: among candidates in another order."""
    if then[0] != _CATEGORICAL or today[0] != _CATEGORICAL:
        return decision
    (candidates, _), (offered, _) = then[2], today[2]
    value = candidates[decision]
    return offered.index(value) if value in offered else decision


def record_of_today(entry: Entry) -> Entry:
    """A record as this version writes it, with its times: those of its description stay true.

    Raises
    ------
    StaleRecordError
        If its description means something else by now, or as in :func:`replay_record`.
    """
    space, spec, shape, variant = origin_of(entry)
    description = describe(space.name, spec, shape, variant)
    return redescribed(entry, description, describe_for_every_shape(space.name, spec, variant))


def origin_of(entry: Entry) -> tuple[DesignSpace, PrefillSpec, PrefillShape, Variant]:
    """Design space, spec, shape and variant of a record.

    Raises
    ------
    StaleRecordError
        If the design space is unknown.
    """
    provenance = entry.provenance
    if provenance.space not in SPACES:
        raise StaleRecordError(
            f"{entry.place}: record {entry.record_id} is of the design space "
            f"{provenance.space!r}, which this version does not have (it has "
            f"{', '.join(sorted(SPACES))}); use the version that made it, or {entry.mend}"
        )
    spec, shape = PrefillSpec.parse(provenance.spec), PrefillShape.parse(provenance.shape)
    return SPACES[provenance.space], spec, shape, provenance.variant
