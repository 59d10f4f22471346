"""The records that a sweep timed: a database keeps them while boundaries come from them."""

from __future__ import annotations

import json
from pathlib import Path

#: Beside the records of a target: what sweeps measured.
SWEEP_FILE = "dispatch.json"


def swept_records(folder: Path) -> frozenset[str]:
    """Ids of the records that the sweeps of a database timed, given the folder of a target.

    Sweeps of other targets count: they time the records of their family's devices too. None of a
    file that cannot be read: whoever needs its boundaries is told what is wrong.
    """
    files = sorted(folder.parent.glob(f"*/{SWEEP_FILE}"))
    return frozenset(record for file in files for record in _timed(file))


def _timed(file: Path) -> list[str]:
    try:
        sweeps = json.loads(file.read_bytes())["sweeps"]
        return [str(record) for sweep in sweeps for record in sweep["records"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
