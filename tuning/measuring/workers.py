"""Calls of one function side by side, in as many worker processes as there are cores."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from ..target import usable_cores
from .cpu import tvm_environment
from .worker import Outcome, Worker


def call_all(
    function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], timeout: float
) -> list[Outcome]:
    """How calls of ``function`` end.

    Parameters
    ----------
    calls : Sequence[tuple]
        The arguments of each.
    timeout : float
        Seconds that a call may take.
    """
    workers: queue.Queue[Worker] = queue.Queue()

    def run(arguments: tuple[Any, ...]) -> Outcome:
        worker = workers.get()
        try:
            return worker.call(function, *arguments, timeout=timeout)
        finally:
            workers.put(worker)

    if not calls:
        return []
    with ExitStack() as stack:
        count = min(len(calls), usable_cores())
        for _ in range(count):
            worker = stack.enter_context(Worker(tvm_environment(1)))
            worker.start()
            workers.put(worker)
        return list(stack.enter_context(ThreadPoolExecutor(count)).map(run, calls))
