"""Devices that a tracker hands out, used like workers of this machine."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import GarbledMessageError, NoDeviceError, WorkerFailedError
from ..measuring.worker import Outcome, Worker
from . import rpc_link
from .address import Address
from .functions import NAMES, takes_library
from .messages import RESTART, Request, UploadedLibrary, decode_outcome

_CONNECT_TIMEOUT = 40.0
_ANSWER_TIMEOUT = 20.0
# What the network and the start of a process on the device may take beyond the call itself.
_MARGIN = 30.0


class RemoteWorker:
    """A device of a tracker, in the place of a :class:`~..measuring.worker.Worker`.

    Parameters
    ----------
    tracker : Address
        Asked for the device.
    key : str
        What to ask for.
    threads : int
        CPU threads that kernels run with.
    """

    def __init__(self, tracker: Address, key: str, threads: int) -> None:
        self._tracker = tracker
        self._key = key
        self.threads = threads
        self._link = Worker()
        self._connected = False

    def start(self) -> None:
        """Take a device from the tracker, unless this worker has one.

        Raises
        ------
        WorkerFailedError
            If none is free in time.
        """
        if self._connected:
            return
        arguments = (self._tracker, self._key)
        outcome = self._link.call(rpc_link.connect, *arguments, timeout=_CONNECT_TIMEOUT)
        if outcome.status != "ok":
            self.close(kill=True)
            raise WorkerFailedError(
                f"the tracker {self._tracker} gave no device of key {self._key} ({outcome.status}: "
                f"{outcome.detail}); see that a worker runs and that no other search holds it"
            )
        self._connected = True

    def call(self, function: Callable[..., Any], *args: Any, timeout: float) -> Outcome:
        """Run one of :data:`~prefilltune.tuning.devices.functions.FUNCTIONS` on the device.

        Returns
        -------
        Outcome
            As of a worker; or ``lost``, if the device was lost or its reply makes no sense.
        """
        try:
            self.start()
        except WorkerFailedError as error:
            return Outcome("lost", detail=str(error))
        name, library, uploaded = NAMES[function], "", ""
        if takes_library(name):
            library = str(args[0])
            uploaded = f"{hashlib.sha256(Path(library).read_bytes()).hexdigest()[:32]}.so"
            args = (UploadedLibrary(uploaded), *args[1:])
        request = Request(name, args, self.threads, timeout).encode()
        asked = (rpc_link.ask, request, library, uploaded)
        outcome = self._link.call(*asked, timeout=timeout + _MARGIN)
        if outcome.status == "ok":
            try:
                return decode_outcome(outcome.value)
            except GarbledMessageError as error:
                outcome = Outcome("lost", detail=str(error))
        self.close(kill=True)
        return Outcome("lost", detail=outcome.detail)

    def restart(self) -> None:
        """Have the device take a new process for kernels, whatever the last one suffered."""
        request = Request(RESTART, (), self.threads, _MARGIN).encode()
        asked = (rpc_link.ask, request, "", "")
        if self._connected and self._link.call(*asked, timeout=_MARGIN).status != "ok":
            self.close(kill=True)

    def close(self, *, kill: bool = False) -> None:
        """Give the device back; a later call takes one again."""
        self._connected = False
        self._link.close(kill=kill)

    def abort(self) -> None:
        """Give the device back, from any thread; a call under way ends as lost."""
        self._link.abort()


def devices_of(tracker: Address, key: str) -> int:
    """How many devices a tracker knows by a key.

    Raises
    ------
    NoDeviceError
        If there is no tracker, or if it knows none.
    """
    try:
        socket.create_connection((tracker.host, tracker.port), _ANSWER_TIMEOUT).close()
        with Worker() as link:
            counted = link.call(rpc_link.count_devices, tracker, key, timeout=_ANSWER_TIMEOUT)
    except OSError as error:
        counted = Outcome("error", detail=str(error))
    if counted.status != "ok":
        raise NoDeviceError(
            f"no tracker answers at {tracker} ({counted.detail}); start one on its machine; "
            f"run: prefilltune tracker --host {tracker.host} --port {tracker.port}"
        )
    count, keys = counted.value
    if not count:
        raise NoDeviceError(
            f"the tracker {tracker} knows no device of key {key!r} (it knows: "
            f"{', '.join(keys) or 'none'}); start one where the device is; run: prefilltune worker "
            f"--tracker {tracker} --key {key}"
        )
    return count
