"""When something was measured: of two measurements of one record the later counts.

Clocks are set back, and machines begin without knowing the time. What is measured anew is later
than what it replaces, whatever the clock says.
"""

from __future__ import annotations

import datetime
import math

_UTC = datetime.timezone.utc


def date_now(after: str = "") -> str:
    """The date of a measurement that ends now, in UTC and ISO 8601.

    Parameters
    ----------
    after : str
        The date of what it replaces: where the clock was set back, a second after that.

    Examples
    --------
    >>> date_now(after="2999-12-31T23:59:59+00:00")
    '3000-01-01T00:00:00+00:00'
    """
    now = datetime.datetime.now(_UTC)
    earliest = moment(after) + 1
    try:
        if now.timestamp() < earliest:
            now = datetime.datetime.fromtimestamp(earliest, _UTC)
    except (OverflowError, OSError, ValueError):  # after the last year that there is
        return after
    return now.isoformat(timespec="seconds")


def moment(date: str) -> float:
    """Seconds since 1970 of an ISO 8601 text, UTC where it names no zone; -inf for another text."""
    try:
        parsed = datetime.datetime.fromisoformat(date.replace("Z", "+00:00"))
    except ValueError:  # the schema vouches for the form of the first ten characters alone
        return -math.inf
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=_UTC)
    return parsed.timestamp()
