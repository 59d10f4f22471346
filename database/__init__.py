"""A git-kept database of verified MetaSchedule tuning records; imports no TVM by itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..workloads.on_demand import on_demand
from .errors import (
    DatabaseNotFoundError,
    ImplausibleRecordError,
    InvalidTargetKeyError,
    MalformedExportError,
    MalformedProvenanceError,
    MalformedWorkloadError,
    NoRecordError,
    NotWritableError,
    StaleRecordError,
    UnmergeableError,
    VersionMismatchError,
)

if TYPE_CHECKING:
    from .diffing import Change, diff, diff_best
    from .entry import BadLine, Entry
    from .finder import Finder, Match, Tier, lookup, nearly_fastest, shape_distance
    from .folders import target_keys
    from .git_merging import install_driver, merge_versions
    from .judging import judge
    from .merging import Merge, merge, union
    from .migration import OtherVersion, read_other_version
    from .provenance import Provenance, record_id
    from .renaming import renamed
    from .replay import (
        apply_trace,
        entry_from,
        redescribed,
        schedule,
        schedule_name,
        trace_to_json,
        without_end,
    )
    from .store import RecordStore
    from .target_key import TargetKey
    from .transfer import export, rescued_records, unpack

__all__ = [
    "BadLine",
    "Change",
    "DatabaseNotFoundError",
    "Entry",
    "Finder",
    "ImplausibleRecordError",
    "InvalidTargetKeyError",
    "MalformedExportError",
    "MalformedProvenanceError",
    "MalformedWorkloadError",
    "Match",
    "Merge",
    "NoRecordError",
    "NotWritableError",
    "OtherVersion",
    "Provenance",
    "RecordStore",
    "StaleRecordError",
    "TargetKey",
    "Tier",
    "UnmergeableError",
    "VersionMismatchError",
    "apply_trace",
    "committed_root",
    "diff",
    "diff_best",
    "entry_from",
    "export",
    "install_driver",
    "judge",
    "lookup",
    "merge",
    "merge_versions",
    "nearly_fastest",
    "read_other_version",
    "record_id",
    "redescribed",
    "renamed",
    "rescued_records",
    "schedule",
    "schedule_name",
    "shape_distance",
    "target_keys",
    "trace_to_json",
    "union",
    "unpack",
    "without_end",
    "work_root",
]


if not TYPE_CHECKING:
    __getattr__ = on_demand(
        __name__,
        {
            "diffing": ("Change", "diff", "diff_best"),
            "entry": ("BadLine", "Entry"),
            "finder": ("Finder", "Match", "Tier", "lookup", "nearly_fastest", "shape_distance"),
            "folders": ("target_keys",),
            "git_merging": ("install_driver", "merge_versions"),
            "judging": ("judge",),
            "merging": ("Merge", "merge", "union"),
            "migration": ("OtherVersion", "read_other_version"),
            "provenance": ("Provenance", "record_id"),
            "renaming": ("renamed",),
            "replay": (
                "apply_trace",
                "entry_from",
                "redescribed",
                "schedule",
                "schedule_name",
                "trace_to_json",
                "without_end",
            ),
            "store": ("RecordStore",),
            "target_key": ("TargetKey",),
            "transfer": ("export", "rescued_records", "unpack"),
        },
    )


def __dir__() -> list[str]:
    return __all__


def committed_root() -> Path:
    """The database that comes with the package; read-only where that is installed."""
    return Path(__file__).parent / "records"


def work_root() -> Path:
    """Where records go when nothing is said: beside the committed ones in a checkout.

    An installed package must not write into itself; there it is a folder of the working directory.
    """
    package = committed_root().parent
    if (package.parent / "pyproject.toml").is_file():
        return package / "work"
    return Path("prefilltune-work")
