"""Timing launches on a GPU: recorded once as a CUDA graph, replayed between two events.

What a call costs on the host (a packed call of TVM takes some microseconds) is not in the times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

# Of one graph: long enough for the events to tell, short enough to be recorded in no time.
_GRAPH_SECONDS = 5e-3
_MOST_LAUNCHES = 256


class LaunchGraph:
    """Calls that launch kernels, in turns; a context manager that owns a graph of them.

    Parameters
    ----------
    device : tvm.runtime.Device
        That the calls launch on, in TVM's current stream.
    calls : Sequence[Callable[[], object]]
        Each called once, at least, before it is recorded.
    """

    def __init__(self, device: Any, calls: Sequence[Callable[[], object]]) -> None:
        from cuda.bindings import driver  # pyright: ignore[reportAttributeAccessIssue]

        self._driver = driver
        self._device = device
        self._calls = tuple(calls)  # keeps their arguments alive, whose addresses the graph holds
        apart = driver.CUstream_flags.CU_STREAM_NON_BLOCKING
        self._stream = self._value(driver.cuStreamCreate(apart))
        self._events = [self._value(driver.cuEventCreate(0)) for _ in range(2)]
        self._executable: Any = None
        for call in calls:
            call()
        device.sync()
        self.estimate = self._record_and_time(len(calls))
        wanted = _GRAPH_SECONDS / max(self.estimate, 1e-7)
        rounds = math.ceil(min(wanted, _MOST_LAUNCHES) / len(calls))
        if rounds > 1:
            self.estimate = self._record_and_time(rounds * len(calls))

    def seconds(self, at_least: float) -> float:
        """Mean seconds a launch, over as many replays as take ``at_least`` seconds."""
        replays = max(1, math.ceil(at_least / (self.estimate * self._launches)))
        return self._replay(replays) / (replays * self._launches)

    def close(self) -> None:
        """Give back what the driver holds."""
        self._destroy_graph()
        for event in self._events:
            self._driver.cuEventDestroy(event)
        self._driver.cuStreamDestroy(self._stream)

    def __enter__(self) -> LaunchGraph:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _record_and_time(self, launches: int) -> float:
        """Record the graph anew; seconds a launch of its second replay."""
        import tvm_ffi

        driver = self._driver
        self._destroy_graph()
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        with tvm_ffi.use_raw_stream(self._device, int(self._stream)):
            self._value(driver.cuStreamBeginCapture(self._stream, mode))
            try:
                for index in range(launches):
                    self._calls[index % len(self._calls)]()
            finally:
                graph = self._value(driver.cuStreamEndCapture(self._stream))
        self._executable = self._value(driver.cuGraphInstantiate(graph, 0))
        self._value(driver.cuGraphDestroy(graph))
        self._launches = launches
        self._replay(1)
        return self._replay(1) / launches

    def _replay(self, replays: int) -> float:
        driver, (start, end) = self._driver, self._events
        self._value(driver.cuEventRecord(start, self._stream))
        for _ in range(replays):
            self._value(driver.cuGraphLaunch(self._executable, self._stream))
        self._value(driver.cuEventRecord(end, self._stream))
        self._value(driver.cuEventSynchronize(end))
        return self._value(driver.cuEventElapsedTime(start, end)) * 1e-3

    def _destroy_graph(self) -> None:
        if self._executable is not None:
            self._driver.cuGraphExecDestroy(self._executable)
            self._executable = None

    def _value(self, result: tuple[Any, ...]) -> Any:
        status, *values = result
        if status != self._driver.CUresult.CUDA_SUCCESS:
            raise RuntimeError(f"the CUDA driver reports {status.name}")
        return values[0] if values else None
