"""Reading the records of another version, of TVM or of this project."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from .contents import FILES, PROVENANCE, RECORDS
from .entry import BadLine, Entry
from .provenance import is_trusted_version, running_tvm_version
from .scratch import ScratchFolder
from .store import RecordStore
from .target_key import TargetKey


@dataclass(frozen=True)
class OtherVersion:
    """The records of one target, whichever version made them.

    Parameters
    ----------
    key : TargetKey
        Whose.
    tvm : str
        The version that wrote the folder; empty if that cannot be read.
    entries : tuple of Entry
        Their traces and descriptions are of ``tvm``: nothing here has seen a TVM yet.
    bad_lines : tuple of BadLine
        What could not be read.
    """

    key: TargetKey
    tvm: str
    entries: tuple[Entry, ...]
    bad_lines: tuple[BadLine, ...]

    @property
    def keeps_times(self) -> bool:
        """Whether times are still true: the TVM at hand makes the same kernels of the same."""
        return is_trusted_version(self.tvm)


def read_other_version(root: Path, key: TargetKey) -> OtherVersion:
    """Read the records of ``key`` under ``root`` without minding their version of TVM.

    A copy is read, and the source never changed.

    Raises
    ------
    MalformedProvenanceError
        If its provenance is unreadable, or of another schema or target.
    """
    folder = root / str(key)
    with ScratchFolder() as copy:
        target = copy / str(key)
        target.mkdir()
        for name in reversed(FILES):  # the order in which a reader beside a writer is safe
            if (folder / name).is_file():
                (target / name).write_bytes((folder / name).read_bytes())
        version = _relabel(target / PROVENANCE)
        store = RecordStore.open(copy, key)
        entries = tuple(replace(each, origin=str(folder / RECORDS)) for each in store.entries)
        return OtherVersion(key, version, entries, tuple(store.problems))


def _relabel(path: Path) -> str:
    """Let a provenance file claim today's TVM; returns what it said."""
    try:
        data = json.loads(path.read_bytes())
        version = data["tvm"]
        if not isinstance(version, str):
            return ""
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return ""  # opening it says what is wrong
    path.write_text(json.dumps({**data, "tvm": running_tvm_version()}), encoding="utf-8")
    return version
