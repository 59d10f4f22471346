"""What a comparison is, on disk: one JSON file of cases, schema-versioned and validated."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .errors import InvalidComparisonError

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Comparison:
    """One case: a tuned kernel against everything it is compared with.

    Parameters
    ----------
    spec, shape, lens, target, device : str
        What was run, on which lengths, for which target key, on which device.
    valid_lens : tuple[tuple[int, ...], ...]
        The batches that were timed in turns; times and rates are means over them.
    threads : int
        CPU threads of every contestant.
    versions : Mapping[str, str]
        Of everything that was timed.
    record, tier : str
        Which record the tuned kernel is from, and how near it is to what was asked for.
    tuned_ms : float
        Median milliseconds a call of the tuned kernel.
    baseline_ms : float
        Of TVM's hand-written kernel.
    stock_ms : float or None
        Of the best record of TVM's stock rules; None without one.
    stock_trials : int or None
        Candidates of the stock rules measured in the search that found it.
    unscheduled_ms : float
        Of the plain description compiled as it is.
    peers : Mapping[str, float]
        Of other libraries, by name.
    limit_gflops, tuned_gflops : float
        The machine's matrix product peak measured in the same run, and the tuned kernel's rate on
        useful work (pairs that the mask keeps).
    max_abs_error : float
        Largest error of the tuned kernel over every regime of lengths.
    spread_ms : Mapping[str, float]
        Interquartile range of each contestant's times.
    """

    spec: str
    shape: str
    lens: str
    target: str
    device: str
    valid_lens: tuple[tuple[int, ...], ...]
    threads: int
    versions: Mapping[str, str]
    record: str
    tier: str
    tuned_ms: float
    baseline_ms: float
    stock_ms: float | None
    stock_trials: int | None
    unscheduled_ms: float
    peers: Mapping[str, float]
    limit_gflops: float
    tuned_gflops: float
    max_abs_error: float
    spread_ms: Mapping[str, float]

    @property
    def case(self) -> tuple[str, ...]:
        """What identifies a case; a later run of the same case replaces the earlier one."""
        return (self.spec, self.shape, self.lens, self.target, self.device)


def read_comparisons(path: Path) -> list[Comparison]:
    """The cases of a comparison file, in its order; none if the file is missing.

    Raises
    ------
    InvalidComparisonError
        If the file does not follow the schema.
    """
    if not path.exists():
        return []
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise InvalidComparisonError(
            f"{path} is no JSON ({error}); restore it from git, or delete it and compare again"
        ) from None
    _validate(data, str(path))
    return [
        Comparison(**{**fields, "valid_lens": tuple(map(tuple, fields["valid_lens"]))})
        for fields in data["cases"]
    ]


def write_comparisons(path: Path, comparisons: Iterable[Comparison]) -> list[Comparison]:
    """Add cases to a comparison file, replacing earlier runs of the same ones.

    Returns
    -------
    list[Comparison]
        Everything the file now holds.
    """
    cases = {each.case: each for each in [*read_comparisons(path), *comparisons]}
    data = {
        "schema": SCHEMA_VERSION,
        "cases": [
            {**asdict(each), "valid_lens": [list(lens) for lens in each.valid_lens]}
            for each in cases.values()
        ],
    }
    _validate(data, str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(data, file, indent=1)
        file.write("\n")
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
    return list(cases.values())


def _validate(data: Any, where: str) -> None:
    import jsonschema

    try:
        jsonschema.validate(data, _schema())
    except jsonschema.ValidationError as error:
        raise InvalidComparisonError(
            f"{where}: {error.json_path}: {error.message}; restore the file from git, or delete it "
            "and compare again"
        ) from None


@cache
def _schema() -> Any:
    path = Path(__file__).parent / "schema" / "comparison.schema.json"
    return json.loads(path.read_text(encoding="utf-8"))
