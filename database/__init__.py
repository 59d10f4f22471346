"""A git-kept database of verified MetaSchedule tuning records; imports no TVM by itself."""

from __future__ import annotations

from pathlib import Path

from .entry import BadLine, Entry
from .errors import (
    DatabaseNotFoundError,
    InvalidTargetKeyError,
    MalformedProvenanceError,
    MalformedWorkloadError,
    NoRecordError,
    NotWritableError,
    StaleRecordError,
    VersionMismatchError,
)
from .lookup import Match, Tier, lookup, shape_distance
from .provenance import Provenance, record_id
from .replay import entry_from, schedule, trace_to_json
from .store import RecordStore
from .target_key import TargetKey

__all__ = [
    "BadLine",
    "DatabaseNotFoundError",
    "Entry",
    "InvalidTargetKeyError",
    "MalformedProvenanceError",
    "MalformedWorkloadError",
    "Match",
    "NoRecordError",
    "NotWritableError",
    "Provenance",
    "RecordStore",
    "StaleRecordError",
    "TargetKey",
    "Tier",
    "VersionMismatchError",
    "committed_root",
    "entry_from",
    "lookup",
    "record_id",
    "schedule",
    "shape_distance",
    "trace_to_json",
]


def committed_root() -> Path:
    """The database that comes with the package; read-only where that is installed."""
    return Path(__file__).parent / "records"
