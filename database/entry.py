"""What a store holds: records, and what it could not take for one."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from .provenance import Provenance

MAX_RUN_SECS = 1e9  # MetaSchedule notes a failed run as 1e10


class Head(NamedTuple):
    """What a look-up asks of a record, known without its line being parsed.

    Parameters
    ----------
    record_id : str
        See :func:`~prefilltune.database.record_id`.
    spec, shape, space, lens : str
        As in :class:`~prefilltune.database.provenance.Provenance`.
    median_secs, spread_secs : float
        Median and interquartile range of the measured times, in seconds.
    """

    record_id: str
    spec: str
    shape: str
    space: str
    lens: str
    median_secs: float
    spread_secs: float

    @property
    def group(self) -> tuple[str, str, str, str]:
        """What only the fastest are kept of: spec, shape, space, lens."""
        return self.spec, self.shape, self.space, self.lens

    @property
    def speed(self) -> tuple[float, str]:
        """Orders a group, the fastest first, ties by id."""
        return self.median_secs, self.record_id


@dataclass(frozen=True)
class Entry:
    """One verified record.

    Parameters
    ----------
    record_id : str
        See :func:`~prefilltune.database.record_id`.
    workload_line : tuple of str
        Structural hash and serialised text of the description, whose sizes are those of the shape,
        or open where one description serves all shapes.
    trace : list
        MetaSchedule's JSON of the trace: instructions and decisions.
    run_secs : tuple of float
        Measured times in seconds; at least one, each above 0 and below ``MAX_RUN_SECS``.
    target_json : dict, optional
        Of the TVM target.
    args_info : list, optional
        MetaSchedule's description of the arguments that were measured.
    provenance : Provenance
        Where it comes from.
    origin : str
        The file it was read from; no part of equality.
    offset : int
        Where its line begins in that file, in bytes; no part of equality.

    Raises
    ------
    ValueError
        For times out of their range: MetaSchedule would take them for the best, or as failed.
    """

    record_id: str
    workload_line: tuple[str, str]
    trace: list[Any]
    run_secs: tuple[float, ...]
    target_json: dict[str, Any] | None
    args_info: list[Any] | None
    provenance: Provenance
    origin: str = field(default="", compare=False)
    offset: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        if not self.run_secs or not all(
            type(secs) in (int, float) and 0 < secs < MAX_RUN_SECS for secs in self.run_secs
        ):
            raise ValueError(f"measured times {self.run_secs} are not all in 0 .. 1e9 s")

    @property
    def place(self) -> str:
        """The file and the line that it was read from, for people."""
        try:
            with open(self.origin, "rb") as file:
                return f"{self.origin}:{1 + file.read(self.offset).count(10)}"
        except OSError:  # it was made here, or its file is gone
            return self.origin or "no file"

    @property
    def mend(self) -> str:
        """The command that takes it out of its database, for errors; then it is tuned again."""
        return (
            "tune again, once it is removed; run: prefilltune db remove "
            f"{self.record_id} --database {shlex.quote(self._root)}"
        )

    @property
    def renewal(self) -> str:
        """The command that puts its trace, and those of its database, on today's descriptions."""
        database, today = (shlex.quote(f"{self._root}{end}") for end in ("", "-of-today"))
        return (
            "an earlier version made it, whose schedules are taken over, checked and timed again "
            f"where they fit; run: prefilltune db migrate {database} --database {today}"
        )

    @property
    def _root(self) -> str:
        """Of its database."""
        return str(Path(self.origin).parent.parent)

    @property
    def payload(self) -> list[Any]:
        """MetaSchedule's JSON of the record, which a line holds next to a workload index."""
        return [self.trace, self.run_secs, self.target_json, self.args_info]

    @property
    def head(self) -> Head:
        """What a look-up asks of it."""
        origin = self.provenance
        return Head(
            self.record_id, origin.spec, origin.shape, origin.space, origin.lens,
            origin.median_secs, origin.spread_secs,
        )  # fmt: skip

    @property
    def group(self) -> tuple[str, str, str, str]:
        """What only the fastest are kept of: spec, shape, space, lens."""
        return self.head.group

    @property
    def speed(self) -> tuple[float, str]:
        """Orders a group, the fastest first, ties by id."""
        return self.head.speed


@dataclass(frozen=True)
class BadLine:
    """Something wrong in a file.

    Parameters
    ----------
    file : str
        Its name within the folder.
    line : int
        From 1.
    reason : str
        What is wrong with the line.
    text : str
        The line, each byte that is not UTF-8 as a lone surrogate.
    """

    file: str
    line: int
    reason: str
    text: str = field(repr=False)
