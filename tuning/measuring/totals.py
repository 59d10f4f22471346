"""Tensors of packed sequences that hold these and nothing else, as a server's do.

A tensor has room for sequences of full lengths; each batch takes as much of it as it fills.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...workloads import PrefillShape, PrefillSpec


def timed_lens(
    spec: PrefillSpec, shape: PrefillShape, batches: Sequence[tuple[int, ...]]
) -> tuple[int, ...]:
    """Valid lengths of inputs that all batches can be timed on: the first's; packed, full ones."""
    if not spec.is_packed:
        return batches[0]
    return (max(shape.qo_len, shape.num_kv),) * shape.batch


def rooms(spec: PrefillSpec) -> tuple[bool, ...]:
    """Whether tensors of a check have room: of packed sequences, once they do and once not."""
    return (True, False) if spec.is_packed else (True,)


def as_timed(
    spec: PrefillSpec, arguments: Sequence[Any], lengths: Sequence[np.ndarray]
) -> tuple[Any, ...]:
    """What a kernel takes that is timed: of packed sequences, nothing behind the last one."""
    return without_room(arguments, lengths) if spec.is_packed else tuple(arguments)


def without_room(arguments: Sequence[Any], lengths: Sequence[np.ndarray]) -> tuple[Any, ...]:
    """What a kernel of packed sequences takes, without what lies behind the last one.

    Parameters
    ----------
    arguments : Sequence[tvm.runtime.Tensor]
        Query, key, value, others, output, LSE.
    lengths : tuple of np.ndarray
        ``cu_seqlens_q`` and ``cu_seqlens_kv``.

    Returns
    -------
    tuple of tvm.runtime.Tensor
        Views of the first three and the last two. Where there are no queries or no keys, the
        arguments as they are: kernels are launched with both (:mod:`~prefilltune.tuning.deployment`
        sees to it).
    """
    rows, columns = (int(each[-1]) for each in lengths)
    if not (rows and columns):
        return tuple(arguments)
    query, key, value, *others, output, lse = arguments
    return (
        _first(query, rows),
        _first(key, columns),
        _first(value, columns),
        *others,
        _first(output, rows),
        _first(lse, rows),
    )


def _first(tensor: Any, count: int) -> Any:
    return tensor._create_view((count, *tensor.shape[1:]))
