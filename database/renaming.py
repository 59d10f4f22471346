"""Other files that name records, where these have other ids by now."""

from __future__ import annotations

import re
from collections.abc import Mapping

_QUOTED_ID = re.compile(rb'"([0-9a-f]{16})"')


def renamed(content: bytes, names: Mapping[str, str]) -> bytes:
    """A JSON file with the ids of today.

    Parameters
    ----------
    content : bytes
        Of a file beside the records, such as a sweep.
    names : Mapping of str to str
        Today's id by the earlier one; other ids stay.

    Examples
    --------
    >>> renamed(b'["0123456789abcdef"]', {"0123456789abcdef": "fedcba9876543210"})
    b'["fedcba9876543210"]'
    """

    def of_today(found: re.Match[bytes]) -> bytes:
        id_ = found[1].decode()
        return f'"{names.get(id_, id_)}"'.encode()

    return _QUOTED_ID.sub(of_today, content)
