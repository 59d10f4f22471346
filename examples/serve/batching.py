"""Sequences of many requests become batches of so many tokens, one batch at a time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from .metrics import Metrics


class OverloadedError(Exception):
    """As much waits as may wait."""


class ClosedError(Exception):
    """The server is going down and takes nothing new."""


@dataclass(frozen=True)
class Limits:
    """When a batch is closed, and how much may wait for one.

    Parameters
    ----------
    tokens : int
        A batch holds no more, unless one sequence alone does.
    wait : float
        Seconds that a sequence waits for others while nothing is computed.
    queued_tokens : int
        Requests are refused while more than so many wait.
    """

    tokens: int = 1024
    wait: float = 0.005
    queued_tokens: int = 1 << 20


@dataclass(frozen=True, eq=False)
class _Waiting:
    ids: Sequence[int]
    vector: asyncio.Future[np.ndarray]
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """Computes what is submitted, batch after batch, until it is closed.

    A batch closes when the next sequence would make it too long, or when its oldest sequence has
    waited long enough: so under load, when others have come during the batch before, at once.

    Parameters
    ----------
    embed : Callable
        Sequences of token ids to vectors ``[sequences, size]``; called in a thread of its own,
        one batch at a time.
    """

    def __init__(
        self,
        embed: Callable[[Sequence[Sequence[int]]], np.ndarray],
        limits: Limits,
        metrics: Metrics,
    ) -> None:
        self._embed = embed
        self._limits = limits
        self._metrics = metrics
        self._queue: deque[_Waiting] = deque()
        self._queued_tokens = 0
        self._closing = False
        self._changed = asyncio.Event()

    async def submit(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """The vectors of sequences, which may end up in several batches, with others' sequences.

        Raises
        ------
        OverloadedError
            If too much waits.
        ClosedError
            After :meth:`close`.
        """
        if self._closing:
            raise ClosedError
        if self._queued_tokens > self._limits.queued_tokens:
            raise OverloadedError
        loop = asyncio.get_running_loop()
        waiting = [_Waiting(ids, loop.create_future()) for ids in sequences]
        self._queue += waiting
        self._queued_tokens += sum(map(len, sequences))
        self._changed.set()
        return await asyncio.gather(*(each.vector for each in waiting))

    def close(self) -> None:
        """Take nothing new; :meth:`run` ends when what waits is computed."""
        self._closing = True
        self._changed.set()

    async def run(self) -> None:
        """Compute batches until :meth:`close`."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "embed") as thread:
            while batch := await self._next_batch():
                self._metrics.taken([(len(each.ids), each.since) for each in batch])
                try:
                    with self._metrics.forward_seconds.time():
                        ids = [each.ids for each in batch]
                        vectors = await loop.run_in_executor(thread, self._embed, ids)
                except Exception as error:
                    # Of these requests alone: the next batch may well be computed.
                    for each in batch:
                        if not each.vector.cancelled():
                            each.vector.set_exception(error)
                else:
                    for each, vector in zip(batch, vectors, strict=True):
                        if not each.vector.cancelled():
                            each.vector.set_result(vector)

    async def _next_batch(self) -> list[_Waiting]:
        """Wait for a batch; none when it is closed and nothing waits."""
        while not self._queue and not self._closing:
            await self._change(None)
        if not self._queue:
            return []
        closes = self._queue[0].since + self._limits.wait
        while self._queued_tokens < self._limits.tokens and not self._closing:
            left = closes - time.monotonic()
            if left <= 0:
                break
            await self._change(left)
        return self._take()

    async def _change(self, timeout: float | None) -> None:
        self._changed.clear()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._changed.wait(), timeout)

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        tokens = 0
        while self._queue:
            length = len(self._queue[0].ids)
            if batch and tokens + length > self._limits.tokens:
                break
            tokens += length
            batch.append(self._queue.popleft())
        self._queued_tokens -= tokens
        return batch
