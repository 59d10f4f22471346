"""Timing what runs on PyTorch's streams: CUDA graphs, replayed between two events.

A graph leaves the cost of launching from Python out, which a model that is served that way does
not pay either, and which would hide the differences between kernels of ten microseconds. PyTorch
itself must capture what allocates memory from it; :mod:`~.cuda_timing` does without PyTorch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

_GRAPH_SECONDS = 2e-3
_MOST_ROUNDS = 64


class GraphTimer:
    """Calls captured as one CUDA graph; a :data:`~.timing.Timer`.

    Parameters
    ----------
    calls : Sequence[Callable[[], object]]
        What to run in turns, on PyTorch's current stream. They have run before: what is compiled or
        loaded on the first call is there. Each has a result of its own, which stays until it is
        called again.
    pool : object, optional
        Memory that graphs of one pool share, if none reads what another has made.
    """

    def __init__(self, calls: Sequence[Callable[[], object]], pool: Any = None) -> None:
        import torch  # pyright: ignore[reportMissingImports]  (extra [torch])

        self._kept = tuple(calls)  # with their tensors, whose addresses the graph holds
        estimate = _run_eagerly(calls)
        rounds = max(1, min(_MOST_ROUNDS, round(_GRAPH_SECONDS / estimate)))
        self._graph = torch.cuda.CUDAGraph()
        results: list[object] = [None] * len(calls)
        with torch.cuda.graph(self._graph, pool=pool):
            for _ in range(rounds):
                for index, call in enumerate(calls):
                    results[index] = None  # its memory is this call's again, and no other's
                    results[index] = call()
        self._calls = rounds * len(calls)
        self._seconds = self._replay(1)

    def __call__(self, seconds: float) -> float:
        """Seconds a call, over as many replays as fill ``seconds``."""
        replays = max(1, round(seconds / self._seconds))
        self._seconds = self._replay(replays) / replays  # the first replay was slower than any
        return self._seconds / self._calls

    def _replay(self, replays: int) -> float:
        """Seconds of so many replays."""
        import torch  # pyright: ignore[reportMissingImports]

        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        if replays > 1:
            self._graph.replay()  # keeps the GPU busy until the next replay is queued
        begin.record()
        for _ in range(replays):
            self._graph.replay()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1e3


def _run_eagerly(calls: Sequence[Callable[[], object]]) -> float:
    """Seconds of one round, on a stream of its own, as a capture wants it."""
    import torch  # pyright: ignore[reportMissingImports]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        calls[0]()
        torch.cuda.synchronize()
        start = time.perf_counter()
        for call in calls:
            call()
        torch.cuda.synchronize()
    return time.perf_counter() - start
