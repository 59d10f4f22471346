"""Wall-clock budgets as people write them."""

from __future__ import annotations

import re

from .errors import InvalidOptionError

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str) -> float:
    """Seconds of ``90s``, ``5m``, ``1.5h`` or a bare number of seconds.

    Raises
    ------
    InvalidOptionError
        If ``text`` has none of these forms or is zero.

    Examples
    --------
    >>> parse_duration('5m')
    300.0
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    seconds = float(found[1]) * _SECONDS[found[2] or "s"] if found else 0.0
    if not seconds:
        raise InvalidOptionError(
            f"{text!r} is no duration above zero; write seconds, minutes or hours: 90s, 5m, 1h"
        )
    return seconds


def format_duration(seconds: float) -> str:
    """
    >>> format_duration(95)
    '1:35'
    """
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
