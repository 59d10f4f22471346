"""Where a record comes from, and the identity of a record."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .errors import MalformedProvenanceError

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Provenance:
    """How one record was found, measured and verified.

    Parameters
    ----------
    spec, shape : str
        Canonical texts of the :class:`~prefilltune.workloads.PrefillSpec` and
        :class:`~prefilltune.workloads.PrefillShape`.
    space : str
        Name of the design space.
    variant : dict of str to int, str or bool
        Parameters of the description and of the space, such as ``q_tile``.
    lens : str
        Length distribution that was measured.
    median_secs, spread_secs : float
        Median and interquartile range of the measured times, in seconds.
    max_abs_error : float
        Largest difference from the oracle.
    trials : int
        Candidates of this design space measured in the search that found this one.
    seed : int
        Of that search.
    versions : dict of str to str
        Of TVM, tvm-ffi, compiler or driver.
    device : dict
        Name, threads, clocks where known.
    date : str
        ISO 8601.
    """

    spec: str
    shape: str
    space: str
    variant: dict[str, int | str | bool]
    lens: str
    median_secs: float
    spread_secs: float
    max_abs_error: float
    trials: int
    seed: int
    versions: dict[str, str]
    device: dict[str, str | float | bool | None]
    date: str

    def to_json(self) -> dict[str, Any]:
        """As a JSON object.

        Raises
        ------
        MalformedProvenanceError
            If a field is not what the schema asks: nothing that cannot be read back is written.
        """
        data = asdict(self)
        _check(data, "record", "this provenance")
        try:
            json.dumps(data, allow_nan=False)
        except ValueError as error:
            raise MalformedProvenanceError(f"this provenance: {error}; measure again") from error
        return data

    @classmethod
    def from_json(cls, data: Any, where: str = "this provenance") -> Provenance:
        """Invert :meth:`to_json`; ``where`` names the origin in errors.

        Raises
        ------
        MalformedProvenanceError
            If ``data`` does not follow the schema.
        """
        _check(data, "record", where)
        return cls(**data)


def record_id(workload_hash: str, trace: Any) -> str:
    """Identity of a record: 16 hex digits of SHA-256 over its workload's hash and its trace.

    Measured times are no part of it: measuring a record again does not make another one.
    """
    return digest([workload_hash, trace])


def digest(value: Any) -> str:
    """16 hex digits of SHA-256 over the canonical JSON of ``value``."""
    text = json.dumps(value, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def running_tvm_version() -> str:
    """Version of the TVM at hand."""
    try:
        return importlib.metadata.version("apache-tvm")  # `import tvm` would take 3 s
    except importlib.metadata.PackageNotFoundError:  # built from source
        import tvm

        return tvm.__version__


def check_file(data: Any, where: str) -> None:
    """Check the frame of a provenance file; the single records are checked on their own.

    Raises
    ------
    MalformedProvenanceError
        Naming ``where`` and the field at fault.
    """
    _check(data, "file", where)


def _check(data: Any, part: str, where: str) -> None:
    error = next(_validators()[part].iter_errors(data), None)
    if error is not None:
        raise MalformedProvenanceError(
            f"{where}: {error.json_path}: {error.message[:200]}; expected provenance schema "
            f"{SCHEMA_VERSION}: restore the file from git or tune again"
        )


@functools.cache
def _validators() -> dict[str, Any]:
    import jsonschema  # lazily: only who opens a database pays for it

    path = Path(__file__).parent / "schema" / "provenance.schema.json"
    schema = json.loads(path.read_text(encoding="utf-8"))
    record = {**schema["$defs"]["record"], "$schema": schema["$schema"]}
    make = jsonschema.Draft202012Validator
    return {"file": make(schema), "record": make(record)}
