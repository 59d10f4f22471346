"""Where a tracker listens, and what a device is asked for by."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from ..errors import InvalidOptionError

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Address:
    """A host and a port.

    Examples
    --------
    >>> Address.parse('[::1]:9190')
    Address(host='::1', port=9190)
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``HOST:PORT``; the brackets of an IPv6 address are optional.

        Raises
        ------
        InvalidOptionError
            If ``text`` has another form, or the port lies outside 1 to 65535.
        """
        host, _, port = text.strip().rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 1 << 16:
            raise InvalidOptionError(
                f"{text!r} is no address; write HOST:PORT, such as {LOOPBACK}:9190"
            )
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on ``host``.

    >>> is_loopback('127.0.0.1'), is_loopback('0.0.0.0'), is_loopback('localhost')
    (True, False, True)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_key(key: str) -> str:
    """A name of like devices; TVM's tracker gives ``:`` and spaces a meaning of their own.

    Raises
    ------
    InvalidOptionError
        If ``key`` is empty or holds other characters than letters, digits, ``_``, ``.``, ``-``.
    """
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", key):
        raise InvalidOptionError(
            f"--key is {key!r}; name like devices with letters, digits, '_', '.' and '-', such as "
            "h100"
        )
    return key


def parse_devices(text: str) -> list[str]:
    """Devices of a list; empty for an empty text.

    Raises
    ------
    InvalidOptionError
        If one is empty or there twice.

    Examples
    --------
    >>> parse_devices('0,1')
    ['0', '1']
    """
    if not text:
        return []
    devices = [each.strip() for each in text.split(",")]
    if "" in devices or len(set(devices)) < len(devices):
        raise InvalidOptionError(
            f"--devices is {text!r}; write each device once, with commas between: 0,1,2,3"
        )
    return devices
