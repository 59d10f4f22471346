"""Pickles with a length in front, over the pipes between a process and its own children."""

from __future__ import annotations

import os
import pickle
import selectors
import struct
import time
from typing import Any

_LENGTH = struct.Struct("<Q")


def write_pickle(stream: Any, message: Any) -> None:
    """Write one message and flush it."""
    payload = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    stream.write(_LENGTH.pack(len(payload)) + payload)
    stream.flush()


def read_pickle(stream: Any) -> Any:
    """Read one message.

    Raises
    ------
    EOFError
        If the stream ends before the end of one.
    """
    header = stream.read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        raise EOFError
    size = _LENGTH.unpack(header)[0]
    payload = stream.read(size)
    if len(payload) < size:
        raise EOFError
    return pickle.loads(payload)


def read_pickle_until(stream: Any, deadline: float) -> Any:
    """Read the only message under way in a pipe.

    Parameters
    ----------
    deadline : float
        In the seconds of ``time.monotonic``.

    Raises
    ------
    TimeoutError
        At the deadline.
    EOFError
        If the pipe ends before the end of the message.
    """
    descriptor, received = stream.fileno(), bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while True:
            if len(received) >= _LENGTH.size:
                size = _LENGTH.unpack_from(received)[0] + _LENGTH.size
                if len(received) >= size:
                    return pickle.loads(received[_LENGTH.size : size])
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            chunk = os.read(descriptor, 1 << 20)
            if not chunk:
                raise EOFError
            received += chunk
