"""Between schedules and entries: write a trace down, and apply it again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .compaction import compact_workload
from .entry import Entry
from .errors import StaleRecordError
from .provenance import Provenance, record_id

if TYPE_CHECKING:
    import tvm
    from tvm import s_tir
    from tvm.target import Target

# TVM is imported in the functions that need it: it takes 3 s, and `prefilltune --help` has none.


def entry_from(
    workload_module: tvm.IRModule,
    trace: s_tir.schedule.Trace,
    run_secs: Sequence[float],
    target: Target,
    provenance: Provenance,
    symbolic: tvm.IRModule | None = None,
) -> Entry:
    """Make an entry of a measured schedule.

    Parameters
    ----------
    workload_module : IRModule
        The unscheduled description that was measured, one function ``main``.
    trace : Trace
        Of the schedule on ``workload_module``.
    run_secs : sequence of float
        Measured times in seconds.
    target : Target
        What it was built for.
    provenance : Provenance
        Where it comes from.
    symbolic : IRModule, optional
        The same description with sizes that are learned at a call. The entry then holds this one,
        which the entries of all shapes share.

    Raises
    ------
    MalformedWorkloadError
        If the description cannot be serialised without a doubt.
    TypeError
        If the trace holds an object that MetaSchedule's format cannot express.
    """
    trace_json = trace_to_json(trace)
    return Entry(
        **_described(workload_module, symbolic, trace_json, provenance.lens),
        trace=trace_json,
        run_secs=tuple(float(secs) for secs in run_secs),
        target_json=_plain(target.export()),
        provenance=provenance,
    )


def redescribed(entry: Entry, module: tvm.IRModule, symbolic: tvm.IRModule | None = None) -> Entry:
    """The entry as :func:`entry_from` makes it today, measured as it was.

    Parameters
    ----------
    entry : Entry
        Of the description ``module`` or ``symbolic``.
    module, symbolic : IRModule
        As :func:`schedule` takes them.

    Raises
    ------
    StaleRecordError
        If the entry was measured on another description, or TVM refuses its trace.
    MalformedWorkloadError
        If the description cannot be serialised without a doubt.
    """
    schedule(entry, module, symbolic, symbolic)
    return replace(entry, **_described(module, symbolic, entry.trace, entry.provenance.lens))


def apply_trace(trace: Any, module: tvm.IRModule) -> s_tir.Schedule:
    """Schedule a copy of ``module`` with a trace of MetaSchedule's JSON, in this process.

    TVM raises any Python class, by the name that its C++ gives, and dies of some traces.
    """
    from tvm import s_tir

    scheduled = s_tir.Schedule(module)
    s_tir.schedule.Trace.apply_json_to_schedule(trace, scheduled)
    return scheduled


def schedule(
    entry: Entry,
    module: tvm.IRModule,
    onto: tvm.IRModule | None = None,
    symbolic: tvm.IRModule | None = None,
) -> s_tir.Schedule:
    """Apply the trace of ``entry`` to ``module`` or ``onto``, in this process.

    TVM dies of some traces. Those that a store wrote were verified before; whoever takes records
    from elsewhere (import, merge, migrate, verify) calls :func:`~prefilltune.database.judge` first.

    Parameters
    ----------
    entry : Entry
        As the store or a look-up returned it.
    module : IRModule
        The description of the entry's spec, shape and variant as the code builds it today.
    onto : IRModule, optional
        The description that the trace is applied to, such as one for other sizes; ``module`` when
        absent.
    symbolic : IRModule, optional
        ``module`` with sizes that are learned at a call, where the entry may hold that.

    Returns
    -------
    Schedule
        On a copy of the module, traced.

    Raises
    ------
    StaleRecordError
        If the entry was measured on another description, or TVM refuses its trace.
    """
    import tvm_ffi
    from tvm.s_tir import meta_schedule as ms

    where = f"{entry.place}: record {entry.record_id}"
    try:
        workload = ms.database.Workload.from_json(list(entry.workload_line))
        # The stored hash is no proof of a difference: TVM says hashes depend on the environment.
        same = tvm_ffi.structural_equal(workload.mod, module) or (
            symbolic is not None
            and tvm_ffi.structural_equal(workload.mod, symbolic)
            and entry.args_info == _arguments(module)
        )
        scheduled = apply_trace(entry.trace, module if onto is None else onto) if same else None
    except Exception as error:  # TVM raises any Python class, by the name its C++ gives
        raise StaleRecordError(
            f"{where} of {entry.provenance.spec} at {entry.provenance.shape}: TVM refuses it: "
            f"{str(error).strip()[-400:]}; {entry.mend}"
        ) from error
    if scheduled is None:
        raise StaleRecordError(
            f"{where} was measured on another description than the one built today for "
            f"{entry.provenance.spec} at {entry.provenance.shape} with variant "
            f"{entry.provenance.variant}; {entry.renewal}"
        )
    return scheduled


def trace_to_json(trace: s_tir.schedule.Trace) -> Any:
    """A trace as MetaSchedule's JSON: ``[instructions, decisions]``.

    Raises
    ------
    TypeError
        If the trace holds an object that the format cannot express.
    """
    return _plain(trace.as_json())


def _described(
    module: tvm.IRModule, symbolic: tvm.IRModule | None, trace: Any, lens: str
) -> dict[str, Any]:
    """The fields of an entry that its description has a say in."""
    from tvm.s_tir import meta_schedule as ms

    held = module if symbolic is None else symbolic
    workload_hash, text = ms.database.Workload(held).as_json()
    arguments = _arguments(module)
    told_apart = None if symbolic is None else arguments
    return {
        "record_id": record_id(workload_hash, trace, lens, told_apart),
        "workload_line": (workload_hash, compact_workload(text)),
        "args_info": arguments,
    }


def _arguments(module: tvm.IRModule) -> list[Any]:
    """MetaSchedule's JSON of the arguments of ``main``, which it cannot tell of open sizes."""
    from tvm.s_tir import meta_schedule as ms

    infos = ms.arg_info.ArgInfo.from_entry_func(module, remove_preproc=True)
    return [_plain(info.as_json()) for info in infos]


def _plain(value: Any) -> Any:
    """TVM's containers and numbers as JSON, in the way of MetaSchedule's C++ ``JSONDumps``."""
    from tvm import tirx

    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, tirx.IntImm):
        return bool(value.value) if str(value.ty) == "bool" else int(value.value)
    if isinstance(value, tirx.FloatImm):
        return float(value.value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    if isinstance(value, tirx.IndexMap):
        from tvm.ir import save_json

        return save_json(value)
    raise TypeError(f"MetaSchedule's record format has no {type(value).__name__}: {value}")


def without_end(trace: Any) -> Any:
    """A trace in MetaSchedule's JSON without the mark behind which postprocessors would stand.

    A search that enumerates a space leaves it where there are none, and a trace that was applied
    again has lost it: the schedule is the same.

    Examples
    --------
    >>> without_end([[["GetSBlock", [], ["o", "main"], ["b0"]], ["EnterPostproc", [], [], []]], []])
    [[['GetSBlock', [], ['o', 'main'], ['b0']]], []]
    """
    if trace is None:  # of a variant without a schedule
        return None
    instructions, decisions = trace
    end = -1 if instructions and instructions[-1][0] == "EnterPostproc" else None
    return [instructions[:end], decisions]


def schedule_name(space: str, variant: Mapping[str, Any], trace: Any) -> str:
    """Text that is equal for two records, or candidates, exactly if they are one schedule.

    Parameters
    ----------
    trace
        As :func:`without_end` takes it.
    """
    return json.dumps([space, dict(variant), without_end(trace)], sort_keys=True)
