"""What the process of a device does for a tuner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..backends import BACKENDS
from .machine import describe_machine

_OF_A_LIBRARY = ("check_kernel", "check_and_time", "time_kernel", "time_baseline")

#: All that a request may name.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "describe_machine": describe_machine,
    **{
        f"{kind}.{name}": getattr(backend.engine, name)
        for kind, backend in BACKENDS.items()
        for name in ("prepare", *_OF_A_LIBRARY)
    },
}

#: How a request names a function.
NAMES = {function: name for name, function in FUNCTIONS.items()}


def takes_library(name: str) -> bool:
    """Whether the first argument of a function is the path of a library.

    >>> takes_library('cuda.check_and_time'), takes_library('cuda.prepare')
    (True, False)
    """
    return name.rpartition(".")[2] in _OF_A_LIBRARY
