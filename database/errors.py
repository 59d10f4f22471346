"""Errors of the database, each naming what was found, what was expected and what to do."""

from __future__ import annotations

from ..workloads.errors import PrefilltuneError


class DatabaseNotFoundError(PrefilltuneError, FileNotFoundError):
    """No folder of records where one was named."""


class NotWritableError(PrefilltuneError, PermissionError):
    """Records cannot be written here: read-only, a full disk, or another process has the lock."""


class VersionMismatchError(PrefilltuneError):
    """The records were made by another minor version of TVM; its traces are not portable."""


class MalformedProvenanceError(PrefilltuneError, ValueError):
    """``provenance.json`` is unreadable, of another schema, or of another target."""


class MalformedWorkloadError(PrefilltuneError, ValueError):
    """A serialised workload that cannot be compacted without a doubt."""


class InvalidTargetKeyError(PrefilltuneError, ValueError):
    """A text or field that is not part of a target key."""


class NoRecordError(PrefilltuneError, LookupError):
    """No record answers a look-up on the tier that the caller accepts."""


class StaleRecordError(PrefilltuneError):
    """A record was measured on another description than the one that the code builds today."""


class MalformedExportError(PrefilltuneError, ValueError):
    """A file that was to be imported is no export of records, or was cut."""


class UnmergeableError(PrefilltuneError, ValueError):
    """Versions of one file of records that git must leave to a person."""


class ImplausibleRecordError(PrefilltuneError, ValueError):
    """A record that cannot be true, or not of the target whose folder it is for."""
