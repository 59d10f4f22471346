"""Builders that build no module twice: many tests search the same few candidates."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefilltune.tuning.building.build import build_library
from prefilltune.tuning.measuring.worker import Outcome, Worker


class RememberingBuilder:
    """A builder's process, asked for a library only where there is none of the same module yet.

    Parameters
    ----------
    worker : Worker
        The process.
    libraries : dict[bytes, bytes]
        What was built, by what was asked for; builders may share it.
    """

    def __init__(self, worker: Worker, libraries: dict[bytes, bytes]) -> None:
        self._worker = worker
        self._libraries = libraries

    def call(self, function: Callable[..., Any], *args: Any, timeout: float) -> Outcome:
        """As the worker's, but for libraries that there are: these are copied."""
        if function is not build_library:
            return self._worker.call(function, *args, timeout=timeout)
        module, target, path = args
        asked = pickle.dumps((module, str(target)))
        if asked in self._libraries:
            Path(path).write_bytes(self._libraries[asked])
            return Outcome("ok", path)
        outcome = self._worker.call(function, *args, timeout=timeout)
        if outcome.status == "ok":
            self._libraries[asked] = Path(path).read_bytes()
        return outcome

    def resident_bytes(self) -> int:
        """Of the worker."""
        return self._worker.resident_bytes()

    def restart(self) -> None:
        """Take a new process; what was built is remembered."""
        self._worker.restart()
