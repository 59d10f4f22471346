"""The machine, the target and the devices of a command."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ...workloads import PrefillShape, PrefillSpec
from ..devices.address import Address, check_key, parse_devices
from ..environment import check_compiler, check_packages
from ..errors import InvalidOptionError, UnsupportedTargetError
from ..measuring.tvm_import import import_tvm_without_torch
from .options import DeviceOptions, TargetOptions

if TYPE_CHECKING:
    from ..devices.pool import Pool
    from ..target import ResolvedTarget


def prepare(wanted: TargetOptions, *, compiler: bool = True, runs: bool = False) -> ResolvedTarget:
    """Check the machine, import TVM the fast way and resolve the target.

    Parameters
    ----------
    compiler : bool
        Whether kernels are to be built.
    runs : bool
        Whether kernels are to be run, on this machine.
    """
    check_packages()
    import_tvm_without_torch()
    from ..backends import backend_of
    from ..backends.resolving import resolve_target

    resolved = resolve_target(wanted.target, wanted.threads, wanted.arch)
    backend = backend_of(resolved.kind)
    if runs:
        resolved = backend.at_hand(resolved)
        if lacking := backend.lacking_here(resolved):
            raise UnsupportedTargetError(lacking)
    if compiler:
        check_compiler(backend.processor(resolved.target))
        backend.check_tools()
    return resolved


@contextmanager
def open_devices(
    target: TargetOptions, devices: DeviceOptions
) -> Iterator[tuple[ResolvedTarget, Pool | None]]:
    """The target, and the devices to measure on if they are more than this machine's first."""
    tracker, key, gpus = devices.tracker, devices.key, devices.devices
    if bool(tracker) != bool(key) or (tracker and gpus):
        raise InvalidOptionError(
            "--tracker HOST:PORT and --key NAME go together, and without --devices, which are GPUs "
            "of this machine"
        )
    if not tracker and not gpus:
        yield prepare(target, runs=True), None
        return
    from ..backends import backend_of
    from ..devices.machine import Wanted
    from ..devices.opening import pool_of_gpus, pool_of_tracker

    address = Address.parse(tracker) if tracker else None
    numbers = parse_devices(gpus)
    check_packages()
    check_compiler()
    import_tvm_without_torch()
    wanted = Wanted(target.target, target.threads, target.arch)
    if address is not None:
        pool = pool_of_tracker(address, check_key(key), wanted)
    else:
        pool = pool_of_gpus(numbers, wanted)
    with pool:
        assert pool.machine is not None
        resolved = pool.machine.target
        backend = backend_of(resolved.kind)
        if gpus and not backend.visible_devices:
            raise InvalidOptionError(
                f"--devices are GPUs, and the target is {target.target}; add --target cuda"
            )
        if not resolved.is_here:
            raise UnsupportedTargetError(
                f"the devices are no {resolved.key}: leave --arch out, and theirs is taken"
            )
        backend.check_tools()
        yield resolved, pool


def choose_spaces(
    chosen: Sequence[str] | None,
    spec: PrefillSpec,
    shapes: Sequence[PrefillShape],
    target: ResolvedTarget,
) -> list[str]:
    """The names of the design spaces to search: those chosen, or the usual ones.

    Raises
    ------
    InvalidOptionError
        If one is not for the target, or cannot schedule a shape.
    """
    from ..backends import backend_of
    from ..spaces import SPACES, usable_spaces

    backend, usable = backend_of(target.kind), usable_spaces(target.kind)
    for name in chosen or ():
        if name not in usable:
            raise InvalidOptionError(
                f"--space {name!r} is no design space for {target.kind}; choose {', '.join(usable)}"
            )
    spaces = list(dict.fromkeys(chosen)) if chosen else backend.default_spaces(spec, shapes, target)
    for shape in shapes:
        idle = [name for name in spaces if not SPACES[name].variants(spec, shape, target)]
        if idle or not spaces:
            able = [name for name in usable if SPACES[name].variants(spec, shape, target)]
            raise InvalidOptionError(
                f"{' and '.join(idle) or 'every design space'} cannot schedule {spec} at {shape} "
                f"for {target.key}; "
                + (
                    f"leave --space out, or choose another of {', '.join(able)}"
                    if chosen
                    else f"search another one: tune --space {' or '.join(able)}"
                )
            )
    return spaces
