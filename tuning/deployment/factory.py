"""The drop-in for TVM's hand-scheduled masked prefill kernel, made of tuned kernels."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...database import committed_root
from ...workloads import PrefillSpec, SymbolicShape, masked_baseline
from ..backends.resolving import resolve_target
from ..building.apply import apply_record
from ..target import ResolvedTarget
from .boundaries import Tree, leaves
from .kernel import SYMBOL, dispatching_kernel
from .plan import Plan, make_plan


def sequence_prefill_with_mask(
    h_kv: int,
    h_q: int,
    d: int,
    dtype: str,
    target: Any,
    sm_scale: float = 1.0,
    *,
    mask_mode: str = "padded",
    database: Path | str | Sequence[Path | str] | None = None,
    on_missing: str = "error",
) -> Any:
    """Tuned kernels in the place of TVM's ``_attention_sequence_prefill_with_mask``.

    Parameters
    ----------
    h_kv, h_q, d : int
        Key/value heads, query heads, elements a head.
    dtype : str
        Of query, key, value, output and LSE.
    target : tvm.target.Target, str or dict
        As TVM takes it.
    sm_scale : float
        Factor on query times key.
    mask_mode : str
        ``padded`` or ``causal_padded_left``.
    database : Path or str or sequence of these, optional
        Folders of records, the first before the others; the committed ones when absent.
    on_missing : str
        Where no record serves: ``error``, ``nearest`` (records of another device of the same
        architecture) or ``baseline`` (TVM's hand-written kernel, for GPUs).

    Returns
    -------
    tvm.tirx.PrimFunc
        ``(q, k, v, valid_lens, output, lse)`` with TVM's own symbolic shapes, scheduled.

    Raises
    ------
    InvalidSpecError, InvalidOptionError, UnknownTargetError
        For an argument out of its range.
    NoRecordError, NotSweptError
        As :func:`~.plan.make_plan`.
    StaleRecordError
        If a record no longer replays.

    Warns
    -----
    UserWarning
        For each of the plan's notes: records that serve nothing, or the baseline that serves all.
    """
    spec = PrefillSpec(h_q, h_kv, d, dtype, mask_mode, sm_scale)
    resolved = resolve_target(target)
    plan = make_plan(spec, resolved, database_folders(database), on_missing=on_missing)
    for note in plan.notes:
        warnings.warn(note, stacklevel=2)
    return planned_kernel(plan, resolved)


def planned_kernel(plan: Plan, target: ResolvedTarget) -> Any:
    """The PrimFunc of a plan.

    On the plan's lengths it has kernels that were scheduled on these, the batch alone symbolic.

    Raises
    ------
    StaleRecordError
        If a record no longer replays.
    """
    if plan.tree is None:
        return masked_baseline(plan.spec, target.target)["main"].with_attr("global_symbol", SYMBOL)
    sizes = SymbolicShape.fresh()

    def scheduled(tree: Tree, sizes: SymbolicShape) -> dict[str, Any]:
        return {
            record: apply_record(plan.matches[record], target.kind, sizes)["main"]
            for record in leaves(tree)
        }

    lengths = {
        (qo_len, kv_len): (tree, scheduled(tree, SymbolicShape(sizes.batch, qo_len, kv_len)))
        for (qo_len, kv_len), tree in plan.lengths.items()
    }
    every = scheduled(plan.tree, sizes)
    return dispatching_kernel(plan.spec, plan.tree, every, sizes, target.target, lengths)


def database_folders(database: Path | str | Sequence[Path | str] | None) -> list[Path]:
    """Where to look for records: the folders that are named, or the committed ones."""
    if database is None:
        return [committed_root()]
    if isinstance(database, (str, Path)):
        return [Path(database)]
    return [Path(each) for each in database]
