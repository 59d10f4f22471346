"""The machine that kernels are measured on, which may be another than the tuner's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...database import TargetKey
from ..backends import backend_of
from ..backends.resolving import resolve_target
from ..errors import GarbledMessageError, UnsupportedTargetError, WorkerFailedError
from ..target import ResolvedTarget

_DESCRIBE_TIMEOUT = 120.0


@dataclass(frozen=True)
class Wanted:
    """A target as :func:`~..backends.resolving.resolve_target` takes it, for any machine.

    Parameters
    ----------
    text : str
        The target.
    threads : int, optional
        Of a CPU target.
    arch : str, optional
        Of a CUDA target.
    """

    text: str
    threads: int | None = None
    arch: str | None = None


@dataclass(frozen=True)
class Machine:
    """What a record says of where it was measured.

    Parameters
    ----------
    target : ResolvedTarget
        With the features of its processor.
    versions : Mapping[str, str]
        Of what runs and times kernels there.
    device : Mapping[str, str or float or bool or None]
        Name, and clocks or threads.
    """

    target: ResolvedTarget
    versions: Mapping[str, str]
    device: Mapping[str, str | float | bool | None]

    def is_like(self, other: Machine) -> bool:
        """Whether times of one can be compared with times of the other."""
        return self._speed == other._speed

    @property
    def _speed(self) -> tuple[Any, ...]:
        """What times depend on."""
        versions = [self.versions.get(name) for name in ("tvm", "tvm_ffi", "driver")]
        return self.target.key, self.device.get("name"), *versions

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {each}" for name, each in sorted(self.versions.items()))
        return f"{self.device.get('name')} ({self.target.key}; {versions})"


def machine_here(target: ResolvedTarget) -> Machine:
    """The machine at hand."""
    backend = backend_of(target.kind)
    return Machine(target, backend.runtime_versions(), backend.device(target))


def describe(runner: Any, wanted: Wanted) -> Machine:
    """The machine of a :class:`~prefilltune.tuning.devices.slot.Runner`.

    Raises
    ------
    WorkerFailedError
        If it does not say what it is.
    """
    arguments = (wanted.text, wanted.threads, wanted.arch)
    outcome = runner.call(describe_machine, *arguments, timeout=_DESCRIBE_TIMEOUT)
    detail = outcome.detail
    if outcome.status == "ok":
        try:
            return machine_from(outcome.value)
        except GarbledMessageError as error:
            detail = str(error)
    raise WorkerFailedError(f"a device does not say what it is ({outcome.status}: {detail})")


def describe_machine(wanted: str, threads: int | None, arch: str | None) -> dict[str, Any]:
    """The machine at hand as data; runs in the process of a device.

    Parameters
    ----------
    wanted, threads, arch
        As :func:`~prefilltune.tuning.backends.resolving.resolve_target` takes them.

    Raises
    ------
    UnsupportedTargetError
        If its CPU cannot run code for the target.
    """
    target = resolve_target(wanted, threads, arch)
    backend = backend_of(target.kind)
    target = backend.at_hand(target)
    if backend.is_cpu and (lacking := backend.lacking_here(target)):
        raise UnsupportedTargetError(lacking)
    machine = machine_here(target)
    recorded = machine.target.recorded
    return {
        "target": json.loads(str(machine.target.target)),
        "recorded": None if recorded is None else json.loads(str(recorded)),
        "key": str(machine.target.key),
        "levels": list(machine.target.key.levels),
        "threads": machine.target.threads,
        "is_here": machine.target.is_here,
        "versions": dict(machine.versions),
        "device": dict(machine.device),
    }


def machine_from(data: Any) -> Machine:
    """Invert :func:`describe_machine`.

    Raises
    ------
    GarbledMessageError
        If ``data`` has another form.
    """
    from tvm.target import Target

    try:
        key = replace(TargetKey.parse(data["key"]), levels=tuple(map(str, data["levels"])))
        recorded = None if data["recorded"] is None else Target(data["recorded"])
        threads, is_here = int(data["threads"]), bool(data["is_here"])
        target = ResolvedTarget(Target(data["target"]), key, threads, is_here, recorded)
        return Machine(target, dict(data["versions"]), dict(data["device"]))
    except (TypeError, KeyError, ValueError, RuntimeError) as error:
        raise GarbledMessageError(f"{data!r} describes no machine: {error}") from error
