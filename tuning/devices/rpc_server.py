"""The process that a device is reached through: TVM's RPC server, which can also measure.

TVM forks a process for each session. In it, one packed function more calls what an engine offers,
in a :class:`~..measuring.worker.Worker` as on the tuner's own machine: a kernel that faults or
hangs costs a child process and leaves the session as it is.
"""

from __future__ import annotations

import importlib
import socket
import sys

from ...database.orphans import end_with_parent, end_with_parent_thread
from ..errors import GarbledMessageError
from ..measuring.cpu import tvm_environment
from ..measuring.tvm_import import import_tvm_without_torch
from ..measuring.worker import Outcome, Worker
from .address import Address
from .functions import FUNCTIONS
from .messages import RESTART, Request, encode_outcome
from .rpc_link import CALL

_PORTS = 110
# A tuner whose machine was lost sends no farewell: its session ends after 80 s of silence.
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 5}


def serve(host: str, port: int, tracker: Address, key: str, advertised: str | None) -> None:
    """Serve a device until the process ends, or until TVM's server gives up.

    Parameters
    ----------
    host : str
        Listened on.
    port : int
        The first that is tried; prints the one taken.
    tracker : Address
        Told of this device.
    key : str
        What the tracker hands it out by.
    advertised : str, optional
        The address that tuners are given; the one that the tracker sees when absent.
    """
    import tvm_ffi
    from tvm.rpc.server import PopenRPCServerState

    tvm_ffi.register_global_func(CALL, _Session())
    address = (tracker.host, tracker.port)
    server = PopenRPCServerState(
        host, port, port + _PORTS, False, address, key, None, advertised, silent=True
    )
    _keep_alive(server.sock)
    print(server.port, flush=True)
    server.thread.join()


class _Session:
    """What a session keeps from call to call; its worker is started by the first."""

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._threads = 0

    def __call__(self, text: str) -> str:
        return encode_outcome(self._call(text))

    def _call(self, text: str) -> Outcome:
        import tvm_ffi

        path_of = tvm_ffi.get_global_func("tvm.rpc.server.workpath")
        try:
            request = Request.decode(str(text), lambda name: str(path_of(name)))
        except GarbledMessageError as error:
            return Outcome("error", detail=str(error))
        if request.function == RESTART:
            self._end_worker()
            return Outcome("ok")
        function = FUNCTIONS.get(request.function)
        if function is None:
            known = ", ".join(FUNCTIONS)
            return Outcome("error", detail=f"no function {request.function!r}; one of {known}")
        worker = self._worker_with(request.threads)
        return worker.call(function, *request.arguments, timeout=request.timeout)

    def _worker_with(self, threads: int) -> Worker:
        if threads != self._threads:
            self._end_worker()
        if self._worker is None:
            end_with_parent_thread()
            self._worker = Worker(tvm_environment(threads), bound=True)
            self._threads = threads
        return self._worker

    def _end_worker(self) -> None:
        if self._worker is not None:
            self._worker.close(kill=True)
            self._worker = None


def _keep_alive(listening: socket.socket) -> None:
    """Sessions are accepted with the options of the socket that listens."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, seconds in _KEEPALIVE.items():
        if hasattr(socket, name):
            listening.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)


def main() -> None:
    """Serve as the command line says: host, port, tracker, key and the address given out."""
    end_with_parent()
    import_tvm_without_torch()
    host, port, tracker, key, advertised = sys.argv[1:]
    serve(host, int(port), Address.parse(tracker), key, advertised or None)
    sys.exit(1)  # TVM's server ends when a session died: the supervisor starts another one


if __name__ == "__main__":
    # What is pickled for the worker must be of the importable module.
    importlib.import_module(__spec__.name).main()
