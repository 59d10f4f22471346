"""How many threads the kernels of a library for a CPU run on, and why."""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ForkedError, InvalidArgumentError

#: Say how many threads are wanted, whatever a kernel was tuned with, the first before the second.
_VARIABLES = ("TVM_NUM_THREADS", "OMP_NUM_THREADS")
_CGROUPS, _OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Threads:
    """What kernels of a library run on.

    Parameters
    ----------
    count : int
        How many threads work on a call, the caller among them.
    reason : str
        Why so many.
    """

    count: int
    reason: str

    def __str__(self) -> str:
        return f"{self.count} thread{'s' if self.count > 1 else ''}: {self.reason}"


# By the library that has threads of its own; its C functions beside.
_chosen: dict[Path, tuple[Any, Threads]] = {}
# What set_num_threads said last, if it was called: for libraries that are loaded later, or again.
_said: list[Threads] = []


def set_up_threads(path: Path, tuned: int) -> bool:
    """Give the kernels of a library their threads.

    Parameters
    ----------
    path : Path
        Loaded.
    tuned : int
        Threads that they were tuned with.

    Returns
    -------
    bool
        Whether it has threads of its own; libraries of earlier versions run on TVM's.
    """
    functions = ctypes.CDLL(str(path))
    if not hasattr(functions, "prefilltune_set_threads"):
        return False
    threads = _said[0] if _said else choose_threads(tuned, usable_cores(), cpu_quota(), os.environ)
    functions.prefilltune_set_threads(threads.count)
    _chosen[path] = functions, threads
    return True


def threads_of(path: Path) -> Threads | None:
    """What kernels of a loaded library run on; absent for a GPU's, and where TVM decides."""
    return _chosen[path][1] if path in _chosen else None


def set_num_threads(count: int) -> None:
    """Let the kernels of every library for a CPU run on so many threads from now on.

    So do those of libraries that are loaded later.

    Raises
    ------
    InvalidArgumentError
        If it is below 1.
    """
    if count < 1:
        raise InvalidArgumentError(f"count is {count}; expected 1 or more threads")
    _said[:] = [Threads(count, "as set_num_threads said")]
    for path, (functions, _) in _chosen.items():
        functions.prefilltune_set_threads(count)
        _chosen[path] = functions, _said[0]


def choose_threads(
    tuned: int, usable: int, quota: float | None, environ: Mapping[str, str]
) -> Threads:
    """As many as a kernel was tuned with, but no more than this process may use.

    Parameters
    ----------
    tuned : int
        That it was tuned with.
    usable : int
        CPUs that this process may run on.
    quota : float, optional
        CPUs' worth of time that its container may use.
    environ : Mapping[str, str]
        Where ``TVM_NUM_THREADS``, or else ``OMP_NUM_THREADS``, decides instead.

    >>> str(choose_threads(4, 16, 2.5, {}))
    '2 threads: tuned with 4, and the container may use 2.5 CPUs'
    """
    for name in _VARIABLES:
        text = environ.get(name, "").partition(",")[0]
        if text.isdecimal() and int(text) > 0:
            return Threads(int(text), f"as {name} says")
    whole = usable if quota is None else min(usable, max(1, math.floor(quota)))
    if whole >= tuned:
        return Threads(tuned, "as many as it was tuned with")
    if whole < usable:
        return Threads(whole, f"tuned with {tuned}, and the container may use {quota:g} CPUs")
    return Threads(whole, f"tuned with {tuned}, and this process may run on {usable} of the CPUs")


def usable_cores() -> int:
    """CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_quota(cgroups: Path = _CGROUPS, own: Path = _OWN_CGROUPS) -> float | None:
    """CPUs' worth of time that this process may use, where a container limits it.

    Parameters
    ----------
    cgroups, own : Path
        Where Linux shows control groups, of version 2 or 1, and which are those of this process.
    """
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # A container may see its own group as the root, under the path that the host has for it.
        root = cgroups / controllers if controllers else cgroups
        inside = root / path.lstrip("/")
        found += [
            _quota(group) for group in (inside, *inside.parents) if root in (group, *group.parents)
        ]
    limits = [each for each in found if each is not None]
    return min(limits, default=None)


def _quota(group: Path) -> float | None:
    """Of one control group."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text()
            period = (group / "cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):  # no such group here, or "max"
        return None


# Processes in which a kernel on TVM's threads was called: this one, and those it was forked from.
_called_in: set[int] = set()


def refusing_in_children(function: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel on TVM's threads, which a child has not that is forked after the first call.

    Raises
    ------
    ForkedError
        At a call that would wait for them for ever.
    """
    if not _tvm_has_threads(os.environ, os.cpu_count() or 1):
        return function

    def call(*arguments: Any) -> None:
        process = os.getpid()
        if _called_in and process not in _called_in:
            raise ForkedError(
                "this process was forked after a kernel had been called whose threads do not "
                "survive that; build the library again, with this version of prefilltune, or start "
                "processes by spawn, or call kernels in children alone"
            )
        _called_in.add(process)
        function(*arguments)

    return call


def _tvm_has_threads(environ: Mapping[str, str], cpus: int) -> bool:
    """Whether TVM's own pool has more than the calling thread.

    >>> _tvm_has_threads({}, 2), _tvm_has_threads({}, 8)
    (False, True)
    >>> _tvm_has_threads({"TVM_NUM_THREADS": "1"}, 8)
    False
    """
    named = next((environ[name] for name in _VARIABLES if name in environ), None)
    return cpus // 2 > 1 if named is None else named != "1"
