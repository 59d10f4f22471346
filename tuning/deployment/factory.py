"""The drop-in for TVM's hand-scheduled masked prefill kernel, made of tuned kernels."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...database import Finder, committed_root
from ...workloads import (
    InvalidSpecError,
    PackedShape,
    PrefillSpec,
    SymbolicShape,
    masked_baseline,
)
from ...workloads.shapes import squared
from ...workloads.sizes import has_kernels_of_squares, sizes_at_call
from ..backends.resolving import resolve_target
from ..building.replaying import replay_record
from ..target import ResolvedTarget
from .boundaries import Tree, leaves
from .kernel import SYMBOL, dispatching_kernel
from .serving import Serving, choose_serving


def sequence_prefill_with_mask(
    h_kv: int,
    h_q: int,
    d: int,
    dtype: str,
    target: Any,
    sm_scale: float = 1.0,
    *,
    mask_mode: str | None = None,
    lse_dtype: str | None = None,
    padding: str | None = None,
    window: Sequence[int | None] | None = None,
    softcap: float | None = None,
    bias: str | None = None,
    padding_output: str | None = None,
    database: Path | str | Sequence[Path | str] | None = None,
    on_missing: str = "nearest",
    lens: str = "",
    views: bool = False,
) -> Any:
    """Tuned kernels in the place of TVM's ``_attention_sequence_prefill_with_mask``.

    Parameters
    ----------
    h_kv, h_q, d : int
        Key/value heads, query heads, elements a head.
    dtype : str
        Of query, key, value and output.
    target : tvm.target.Target, str or dict
        As TVM takes it.
    sm_scale : float
        Factor on query times key.
    mask_mode : str, optional
        ``padded``, which is meant when absent, ``causal_padded_left``, or another name for a
        padding and a window, in the place of these.
    lse_dtype : str, optional
        ``float32`` where parts are merged; ``dtype``, as of TVM's kernel, when absent.
    padding, window, softcap, bias, padding_output
        As :class:`~prefilltune.workloads.PrefillSpec` takes them; TVM's kernels have none but
        those that ``mask_mode`` names.
    database : Path or str or sequence of these, optional
        Folders of records, the first before the others; the committed ones when absent.
    on_missing : str
        Where the target has no record of its own: ``nearest`` (those of another device of the same
        architecture, portable ones, or on a CPU those of another), ``error`` or ``baseline`` (TVM's
        hand-written kernel, for GPUs).
    lens : str
        The length distribution to choose kernels for, such as ``full`` or ``uniform``, where a
        shape was tuned on several; when absent, the kernel that loses least over all of them.
    views : bool
        Whether query, key and value may be views, such as parts of one projection, whose last
        dimension alone is dense. Tensors of Relax are dense; on most targets it takes one kernel
        more.

    Returns
    -------
    tvm.tirx.PrimFunc
        ``(q, k, v, valid_lens, output, lse)`` with TVM's own symbolic shapes, scheduled; with a
        ``bias`` ``(q, k, v, valid_lens, bias, output, lse)``, whose bias is float32
        ``[num_qo_heads, qo_len + kv_len - 1]``.

    Raises
    ------
    InvalidSpecError, InvalidOptionError, UnknownTargetError
        For an argument out of its range.
    NoRecordError
        If there is no record and ``on_missing`` says so, or nothing else will do.
    StaleRecordError
        If a record no longer replays.

    Warns
    -----
    UserWarning
        For each note of the serving: records that nothing tells apart but their shapes, records
        that serve nothing, or the baseline that serves all.
    """
    spec = PrefillSpec(
        h_q, h_kv, d, dtype, mask_mode, sm_scale, lse_dtype,
        padding=padding, window=window, softcap=softcap, bias=bias, padding_output=padding_output,
    )  # fmt: skip
    if spec.is_packed:
        raise InvalidSpecError(
            f"mask_mode {mask_mode!r} is of packed sequences, and TVM's function, whose place this "
            "takes, has padded ones: name a padded mask"
        )
    resolved = resolve_target(target)
    databases = open_databases(database)
    serving = choose_serving(spec, resolved, databases, on_missing=on_missing, lens=lens)
    for note in serving.notes:
        warnings.warn(note, stacklevel=2)
    return serving_kernel(serving, resolved, views=views)


def serving_kernel(
    serving: Serving, target: ResolvedTarget, *, views: bool = False, longest: bool = False
) -> Any:
    """The PrimFunc that serves every shape.

    On the lengths that the serving names it has kernels that were scheduled on these, the batch
    alone symbolic; and others for as many keys as queries, where these have less to do. TVM's
    hand-written kernel takes dense tensors, whatever ``views`` says; this and ``longest`` are as
    :func:`dispatching_kernel` takes them.

    Raises
    ------
    StaleRecordError
        If a record no longer replays.
    """
    if serving.tree is None:
        return masked_baseline(serving.spec, target.target)["main"].with_attr(
            "global_symbol", SYMBOL
        )
    sizes = sizes_at_call(serving.spec)

    def scheduled(tree: Tree, sizes: SymbolicShape | PackedShape) -> dict[str, Any]:
        return {
            record: replay_record(serving.matches[record].entry, sizes, serving.spec)["main"]
            for record in leaves(tree)
        }

    lengths = {
        (qo_len, kv_len): (tree, scheduled(tree, SymbolicShape(sizes.batch, qo_len, kv_len)))
        for (qo_len, kv_len), tree in serving.lengths.items()
    }
    every = scheduled(serving.tree, sizes)
    squares = None
    if has_kernels_of_squares(serving.spec):
        squares = scheduled(serving.tree, squared(sizes))
    return dispatching_kernel(
        serving.spec, serving.tree, every, sizes, target.target, lengths,
        squares=squares, views=views, longest=longest,
    )  # fmt: skip


def open_databases(database: Path | str | Sequence[Path | str] | None) -> Finder:
    """Where to look for records: the folders that are named, or the committed ones."""
    if database is None:
        return Finder([committed_root()])
    if isinstance(database, (str, Path)):
        return Finder([Path(database)])
    return Finder([Path(each) for each in database])
