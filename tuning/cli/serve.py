"""The commands that lend devices to tuners: ``prefilltune tracker`` and ``prefilltune worker``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from ..devices import __name__ as devices_package
from ..devices.address import LOOPBACK, Address, check_key, is_loopback, parse_devices
from ..devices.supervision import Command, supervise
from ..environment import check_packages
from ..errors import InvalidOptionError
from .ending import ending_of
from .options import DevicesOption

TRACKER_PORT = 9190
_WORKER_PORT = 9090

HostOption = Annotated[
    str,
    typer.Option(
        "--host",
        help="Address to listen on. Whoever reaches it can run code here: this machine alone, "
        "unless told otherwise.",
    ),
]


def tracker(
    context: typer.Context,
    host: HostOption = LOOPBACK,
    port: Annotated[int, typer.Option("--port", help="To listen on.")] = TRACKER_PORT,
) -> None:
    """Run TVM's RPC tracker, which workers report to and tuners ask for devices."""
    _check_port(port)
    _warn_if_exposed("tracker", host)
    check_packages()
    command = Command("tracker", f"{devices_package}.rpc_tracker", [host, str(port)], {})
    _serve(context, [command])


def worker(
    context: typer.Context,
    tracker: Annotated[
        str, typer.Option("--tracker", metavar="HOST:PORT", help="Where the tracker listens.")
    ],
    key: Annotated[str, typer.Option("--key", help="Names like devices, such as h100.")],
    devices: DevicesOption = "",
    host: HostOption = LOOPBACK,
    port: Annotated[
        int, typer.Option("--port", help="The first to try; each device takes the next free one.")
    ] = _WORKER_PORT,
    advertise: Annotated[
        str,
        typer.Option("--advertise", help="Address to give to tuners; what the tracker sees, else."),
    ] = "",
) -> None:
    """Lend this machine's devices to tuners: one of TVM's RPC servers for each, kept alive.

    Without --devices: one server, for this CPU and the first GPU.
    """
    address = Address.parse(tracker)
    check_key(key)
    _check_port(port)
    if is_loopback(host) and not is_loopback(address.host) and not advertise:
        raise InvalidOptionError(
            f"--host is {host}, which a tuner cannot reach, and the tracker {address} is on "
            "another machine: give this machine's address with --host, or the near end of a "
            "tunnel with --advertise"
        )
    _warn_if_exposed("worker", host)
    check_packages()
    from ..backends import seeing

    _serve(
        context,
        [
            Command(
                f"worker {key}" + (f" of device {device}" if device else ""),
                f"{devices_package}.rpc_server",
                [host, str(port), str(address), key, advertise],
                seeing(device) if device else {},
            )
            for device in parse_devices(devices) or [""]
        ],
    )


def _check_port(port: int) -> None:
    if not 0 < port < 1 << 16:
        raise InvalidOptionError(f"--port is {port}; it must lie in 1 to 65535")


def _warn_if_exposed(name: str, host: str) -> None:
    if not is_loopback(host):
        _tell(
            f"this {name} listens on {host}: whoever reaches it can run code as this user; keep it "
            "within a network that you trust (docs/how-to/many-devices.md)"
        )


def _serve(context: typer.Context, commands: Sequence[Command]) -> None:
    with ending_of(context).patient() as wish:
        supervise(commands, _tell, wish)


def _tell(line: str) -> None:
    print(f"prefilltune: {line}", file=sys.stderr, flush=True)
