"""The tuner's end of a session with a device; runs in a child of the tuner.

TVM's RPC blocks for as long as the other side is silent, and can be ended only with its process.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

from .address import Address

#: Of the packed function that the process of a device registers.
CALL = "prefilltune.call"

# Libraries that stay on the device's disk: a search comes back to its finalists, which are fewer.
_LIBRARIES_KEPT = 32

_session: Any = None
_uploaded: OrderedDict[str, None] = OrderedDict()


def count_devices(tracker: Address, key: str) -> tuple[int, list[str]]:
    """How many devices a tracker knows by a key, and every key that it knows."""
    from tvm.rpc import connect_tracker

    servers = connect_tracker(tracker.host, tracker.port).summary()["server_info"]
    keys = [str(each["key"]).removeprefix("server:") for each in servers]
    return keys.count(key), sorted(set(keys))


def connect(tracker: Address, key: str) -> None:
    """Take a device from a tracker, and wait for one if all are taken."""
    from tvm.rpc import connect_tracker

    global _session
    _uploaded.clear()
    session = connect_tracker(tracker.host, tracker.port)
    _session = session.request(key, max_retry=1)


def ask(request: str, library: str, name: str) -> str:
    """Send a request, and before it the library at a path that it names, unless that is there."""
    if library and name not in _uploaded:
        _session.upload(bytearray(Path(library).read_bytes()), name)
        _uploaded[name] = None
        if len(_uploaded) > _LIBRARIES_KEPT:
            _session.remove(_uploaded.popitem(last=False)[0])
    return str(_session.get_function(CALL)(request))
