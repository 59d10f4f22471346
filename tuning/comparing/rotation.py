"""Tensors that a kernel meets in turn, so many that none is in a cache when it comes again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from .torch_problem import Problem

#: How many times the cache holds less than what a round touches.
_ROUNDS_PAST = 3
#: Calls of a round; tensors of a few kilobytes do not fill a large cache in as many.
_MOST_CALLS = 1024


def rotated(problems: Sequence[Problem], cache_bytes: int) -> list[Problem]:
    """The problems again and again, each time with tensors of its own.

    Parameters
    ----------
    cache_bytes : int
        Of the cache that a round of them is to be larger than.

    Returns
    -------
    list[Problem]
        Each problem equally often, so that a mean over them is one over the problems.
    """
    touched = sum(map(touched_bytes, problems))
    times = max(1, math.ceil(_ROUNDS_PAST * cache_bytes / max(1, touched)))
    times = min(times, max(1, _MOST_CALLS // len(problems)))
    return [
        replace(each, query=each.query.clone(), key=each.key.clone(), value=each.value.clone())
        for _ in range(times)
        for each in problems
    ]


def touched_bytes(problem: Problem) -> int:
    """Of query, key, value and output, padding aside."""
    spec, shape = problem.spec, problem.shape
    rows, columns = (
        int(problem.valid_lens.clamp(0, length).sum()) for length in (shape.qo_len, shape.num_kv)
    )
    elements = 2 * spec.num_qo_heads * rows + 2 * spec.num_kv_heads * columns
    return elements * spec.head_dim * problem.query.element_size()


def cache_bytes(device: str) -> int:
    """Of the last cache of a GPU; 0 for other devices, where nothing rotates."""
    import torch  # pyright: ignore[reportMissingImports]  (extra [torch])

    if torch.device(device).type == "cpu":
        return 0
    return torch.cuda.get_device_properties(device).L2_cache_size
