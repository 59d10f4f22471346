"""Which devices a search measures on: this machine's, some of its GPUs, or a tracker's."""

from __future__ import annotations

from collections.abc import Sequence

from ..backends import backend_of, seeing
from ..errors import NoDeviceError, WorkerFailedError
from ..measuring.cpu import tvm_environment
from ..measuring.worker import Worker
from ..target import ResolvedTarget
from .address import Address
from .machine import Machine, Wanted, describe
from .pool import Pool
from .remote import RemoteWorker, devices_of
from .slot import Slot


def local_pool(target: ResolvedTarget) -> Pool:
    """The machine at hand, with one device."""
    return Pool([Slot("this machine", Worker(tvm_environment(target.threads)))], elsewhere=False)


def pool_of_gpus(devices: Sequence[str], wanted: Wanted) -> Pool:
    """GPUs of the machine at hand, a process each.

    Parameters
    ----------
    devices : Sequence[str]
        As CUDA_VISIBLE_DEVICES takes them.
    wanted : Wanted
        The target.

    Raises
    ------
    NoDeviceError
        If the first does not say what it is.
    """
    runners = [Worker({**tvm_environment(1), **seeing(device)}) for device in devices]
    machine = _describe_first(runners[0], wanted)
    slots = [Slot(f"GPU {device}", runner) for device, runner in zip(devices, runners, strict=True)]
    return Pool(slots, wanted=wanted, machine=machine)


def pool_of_tracker(tracker: Address, key: str, wanted: Wanted, most: int | None = None) -> Pool:
    """Every device that a tracker knows by a key.

    Parameters
    ----------
    wanted : Wanted
        The target.
    most : int, optional
        Take no more devices than this.

    Raises
    ------
    NoDeviceError
        If there is no tracker or no such device, or none says what it is.
    """
    count = min(devices_of(tracker, key), most or 1 << 30)
    first = RemoteWorker(tracker, key, wanted.threads or 1)
    machine = _describe_first(first, wanted)
    first.threads = machine.target.threads
    others = [RemoteWorker(tracker, key, first.threads) for _ in range(count - 1)]
    slots = [
        Slot(f"{key} device {number}", runner) for number, runner in enumerate([first, *others])
    ]
    return Pool(slots, wanted=wanted, machine=machine)


def _describe_first(runner: Worker | RemoteWorker, wanted: Wanted) -> Machine:
    try:
        runner.start()
        machine = describe(runner, wanted)
        here = backend_of(machine.target.kind).runtime_versions()
        for package in ("tvm", "tvm_ffi"):
            if machine.versions.get(package) != here[package]:
                raise NoDeviceError(
                    f"a device is {machine}, and this machine builds with {package} "
                    f"{here[package]}: install the same version on both"
                )
        return machine
    except WorkerFailedError as error:
        runner.close(kill=True)
        raise NoDeviceError(str(error)) from error
    except BaseException:
        runner.close(kill=True)
        raise
