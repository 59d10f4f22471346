"""How searches that run side by side share devices."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ..devices.address import Address, parse_devices
from ..devices.machine import Wanted
from ..devices.opening import pool_of_gpus, pool_of_tracker
from ..devices.pool import Pool
from .plan import PlannedTarget

# Devices of a search, unless a number of searches is asked for: the first is compared with the
# second, which also measures candidates again that came to harm on the first.
_SIBLINGS = 2


@dataclass(frozen=True)
class Device:
    """A device that a plan measures on; without tracker and GPU, the machine at hand.

    Parameters
    ----------
    tracker, key : str
        Who hands it out, and by what name.
    number : int
        Tells devices of a key apart; which of them has which number is for the tracker to say.
    gpu : str
        As CUDA_VISIBLE_DEVICES takes it.
    """

    tracker: str = ""
    key: str = ""
    number: int = 0
    gpu: str = ""


#: Like devices.
Devices = tuple[Device, ...]

#: The machine at hand.
HERE: Devices = (Device(),)


def target_devices(target: PlannedTarget, count: int) -> Devices:
    """The devices of a target, of which a tracker knows ``count``."""
    if target.tracker:
        return tuple(Device(target.tracker, target.key, number) for number in range(count))
    return tuple(Device(gpu=gpu) for gpu in parse_devices(target.devices)) or HERE


def open_pool(devices: Devices, wanted: Wanted) -> Pool | None:
    """A pool of devices; ``None`` for the machine at hand.

    Raises
    ------
    NoDeviceError
        If they cannot be had, or do not say what they are.
    """
    first = devices[0]
    if first.tracker:
        return pool_of_tracker(Address.parse(first.tracker), first.key, wanted, len(devices))
    return None if devices == HERE else pool_of_gpus([each.gpu for each in devices], wanted)


def most_at_once(groups: Sequence[Devices], asked: int | None, cores: int) -> dict[Devices, int]:
    """How many searches each group of devices may have at a time.

    Parameters
    ----------
    groups : Sequence[Devices]
        Of the targets whose searches run beside others.
    asked : int, optional
        Searches in all, with a device each at least. When absent: as many as there are cores, with
        two devices each, so that they are compared and harm is measured again elsewhere.

    Examples
    --------
    >>> gpus = tuple(Device(gpu=str(number)) for number in range(4))
    >>> list(most_at_once([HERE, gpus], None, 8).values())
    [1, 2]
    >>> list(most_at_once([HERE, gpus], 8, 2).values())
    [1, 4]
    """
    fair = max(1, (asked or cores) // max(1, len(groups)))
    each = 1 if asked else _SIBLINGS
    return {devices: min(fair, max(1, len(devices) // each)) for devices in groups}


def share(devices: Devices, taken: Collection[Device], searches: int) -> Devices:
    """What one of so many searches that are to begin gets of the devices that are free.

    Examples
    --------
    >>> gpus = tuple(Device(gpu=str(number)) for number in range(5))
    >>> [each.gpu for each in share(gpus, gpus[:1], 2)]
    ['1', '2']
    """
    free = tuple(each for each in devices if each not in taken)
    return free[: max(1, len(free) // searches)]
