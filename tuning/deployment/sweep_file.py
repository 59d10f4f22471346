"""The times that boundaries come from, on disk: one JSON file beside the records."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from ...database import InvalidTargetKeyError, NotWritableError, TargetKey
from ...database.durable import write_atomically
from ...database.locking import changing
from ...database.writing import rescued
from ...workloads import PrefillShape
from ..errors import InvalidSweepError
from ..swept import SWEEP_FILE
from .boundaries import Point, Sizes

_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Sweep:
    """The kernels of one spec, timed side by side on a sample of shapes.

    Parameters
    ----------
    spec : str
        Canonical text.
    seed : int
        Of the inputs and the lengths.
    device : Mapping[str, object]
        As in the provenance of a record.
    date : str
        UTC, ISO 8601.
    versions : Mapping[str, str]
        That the times depend on.
    records : tuple[str, ...]
        Ids of the records whose kernels were timed.
    points : tuple[Point, ...]
        The times of all of them.
    """

    spec: str
    seed: int
    device: Mapping[str, Any]
    date: str
    versions: Mapping[str, str]
    records: tuple[str, ...]
    points: tuple[Point, ...]


def read_sweeps(folder: Path) -> dict[str, Sweep]:
    """The sweeps of a folder of records, by spec; none if there is no file.

    Raises
    ------
    InvalidSweepError
        If the file does not follow the schema.
    """
    path = folder / SWEEP_FILE
    if not path.is_file():
        return {}
    return dict(_parsed(path.read_bytes(), path))


def write_sweep(folder: Path, sweep: Sweep) -> Path:
    """Add a sweep to a folder of records, in the place of an earlier one of its spec.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    NotWritableError
        If it cannot be written.
    """
    path = folder / SWEEP_FILE
    try:
        with changing(path):
            write_atomically(path, [_file({**read_sweeps(folder), sweep.spec: sweep})])
    except NotWritableError as error:
        others: dict[str, Sweep] = {}
        with contextlib.suppress(OSError, InvalidSweepError):
            others = read_sweeps(folder)
        content = _file({**others, sweep.spec: sweep}) + b"\n"
        mend = (
            f"the times are in {{path}}; once that is mended: mv {{path}} {shlex.quote(str(path))}"
        )
        raise rescued(error, SWEEP_FILE, content, mend) from error
    return path


@lru_cache(maxsize=8)  # every spec of a target asks for its file
def _parsed(content: bytes, path: Path) -> dict[str, Sweep]:
    try:
        data = json.loads(content)
    except ValueError as error:
        raise InvalidSweepError(f"{path} is no JSON ({error}); {_mend(path)}") from None
    _validate(data, path)
    return {each["spec"]: _sweep(each, path) for each in data["sweeps"]}


def _mend(path: Path) -> str:
    """What to do about a file, for all that its database has records of."""
    mend = "restore it from git, or delete it and run: prefilltune sweep"
    try:
        kind = TargetKey.parse(path.parent.name).kind
    except InvalidTargetKeyError:  # of no database
        return mend
    return f"{mend} --target {kind} --database {shlex.quote(str(path.parent.parent))}"


def _file(sweeps: Mapping[str, Sweep]) -> bytes:
    lines = [_text(sweeps[spec]) for spec in sorted(sweeps)]
    text = f'{{"schema": {_SCHEMA_VERSION}, "sweeps": [\n' + ",\n".join(lines) + "\n]}"
    return text.encode()


def _text(sweep: Sweep) -> str:
    """A sweep with a line for each point, so that git shows what changed."""
    points = ",\n".join(
        "  "
        + json.dumps(
            {
                "shape": str(point.shape),
                "lens": point.lens,
                **({} if point.packed is None else {"packed": point.packed[1:]}),
                "noise": float(f"{point.noise:.2g}"),
                "seconds": [float(f"{point.seconds[each]:.5g}") for each in sweep.records],
            }
        )
        for point in sweep.points
    )
    fields = {
        "spec": sweep.spec,
        "seed": sweep.seed,
        "device": dict(sweep.device),
        "date": sweep.date,
        "versions": dict(sweep.versions),
        "records": list(sweep.records),
    }
    return f'{json.dumps(fields)[:-1]}, "points": [\n{points}\n]}}'


def _sweep(fields: Mapping[str, Any], path: Path) -> Sweep:
    records = tuple(fields["records"])
    wrong = [each["shape"] for each in fields["points"] if len(each["seconds"]) != len(records)]
    if wrong:
        raise InvalidSweepError(
            f"{path}: {fields['spec']} has {len(records)} records, and another number of times at "
            f"{', '.join(wrong)}; {_mend(path)}"
        )
    points = tuple(_point(each, records) for each in fields["points"])
    return Sweep(**{**fields, "records": records, "points": points})


def _point(fields: Mapping[str, Any], records: tuple[str, ...]) -> Point:
    shape = PrefillShape.parse(fields["shape"])
    return Point(
        shape,
        fields["lens"],
        dict(zip(records, fields["seconds"], strict=True)),
        fields["noise"],
        # Sweeps of earlier versions do not say it: what they have of the shape serves on.
        Sizes(shape.batch, *fields["packed"]) if "packed" in fields else None,
    )


def _validate(data: Any, path: Path) -> None:
    import jsonschema

    try:
        jsonschema.validate(data, _schema())
    except jsonschema.ValidationError as error:
        raise InvalidSweepError(
            f"{path}: {error.json_path}: {error.message}; {_mend(path)}"
        ) from None


@cache
def _schema() -> Any:
    path = Path(__file__).parent / "dispatch.schema.json"
    return json.loads(path.read_text(encoding="utf-8"))
