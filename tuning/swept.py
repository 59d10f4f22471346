"""The records that a sweep timed: a database keeps them while boundaries come from them."""

from __future__ import annotations

import json
from pathlib import Path

#: Beside the records of a target: what sweeps measured.
SWEEP_FILE = "dispatch.json"


def swept_records(folder: Path) -> frozenset[str]:
    """Ids of the records that the sweeps of a target's folder timed.

    None of a file that cannot be read: whoever needs its boundaries is told what is wrong.
    """
    try:
        sweeps = json.loads((folder / SWEEP_FILE).read_bytes())["sweeps"]
        return frozenset(str(record) for sweep in sweeps for record in sweep["records"])
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()
