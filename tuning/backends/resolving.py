"""From what a user calls a target, or a record's key, to a target that is ready for use."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...database import TargetKey
from ..errors import InvalidOptionError, UnknownTargetError
from ..target import ResolvedTarget
from . import BACKENDS, backend_of

if TYPE_CHECKING:
    from tvm.target import Target


def resolve_target(
    wanted: str | Mapping[str, Any] | Target, threads: int | None = None, arch: str | None = None
) -> ResolvedTarget:
    """Resolve ``llvm``, ``cuda``, a TVM target tag or a target in JSON.

    Parameters
    ----------
    wanted : str, Mapping or tvm.target.Target
        What the user wrote; or TVM's own, or its fields.
    threads : int, optional
        For CPU targets; every core this process may use when absent.
    arch : str, optional
        For CUDA targets, such as ``sm_90a``; the device's when absent.

    Raises
    ------
    UnknownTargetError
        If TVM knows no such target.
    UnsupportedTargetError
        If prefilltune has no backend for it; for ``cuda`` without an architecture on a machine
        without a CUDA device.
    InvalidOptionError
        If ``threads`` is below 1, or ``arch`` is malformed or given for a CPU.
    """
    if threads is not None and threads < 1:
        raise InvalidOptionError(f"--threads is {threads}; it must be 1 or more")
    if isinstance(wanted, Mapping):
        wanted = json.dumps(dict(wanted))
    fields = _fields(str(wanted))
    return backend_of(fields["kind"]).resolve(fields, threads, arch)


def machine_for(key: TargetKey) -> ResolvedTarget | None:
    """The machine at hand, if it is the one that ``key`` names."""
    return BACKENDS[key.kind].here(key) if key.kind in BACKENDS else None


def _fields(text: str) -> dict[str, Any]:
    from tvm.target import Target

    if text in BACKENDS:  # Target("cuda") would ask the driver and invent sm_50 without one
        return {"kind": text}
    try:
        return json.loads(str(Target(json.loads(text) if text.lstrip().startswith("{") else text)))
    except (ValueError, TypeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else "not a target"
        raise UnknownTargetError(
            f"target {text!r} is unknown ({reason}); write {', '.join(BACKENDS)}, a TVM target tag "
            'such as nvidia/nvidia-h100, or JSON such as {"kind": "llvm", "mcpu": "x86-64-v3"}'
        ) from None
