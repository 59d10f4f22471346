"""Where a record comes from, and the identity of a record."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..workloads.lengths import FullLengths
from .errors import MalformedProvenanceError

SCHEMA_VERSION = 1

# What the schema asks of a record, for :func:`is_plain_record`.
MAX_SECS = 1e9
_NUMBER = (float, int)
_RECORD_TYPES = {
    "spec": (str,), "shape": (str,), "space": (str,), "variant": (dict,), "lens": (str,),
    "median_secs": _NUMBER, "spread_secs": _NUMBER, "max_abs_error": _NUMBER, "trials": (int,),
    "seed": (int,), "versions": (dict,), "device": (dict,), "date": (str,),
}  # fmt: skip
_VARIANT_TYPES, _VERSION_TYPES = {int, str, bool}, {str}
_DEVICE_TYPES = {str, int, float, bool, type(None)}
_SHAPE = re.compile(r"b[1-9][0-9]*_q[1-9][0-9]*_kv[1-9][0-9]*")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


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
        _check_record(data, "this provenance")
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
        _check_record(data, where)
        return cls(**data)


#: The length distribution whose records have ids without it.
FULL = FullLengths().text


def record_id(
    workload_hash: str, trace: Any, lens: str = FULL, arguments: list[Any] | None = None
) -> str:
    """Identity of a record: 16 hex digits of SHA-256 over all that tells it from others.

    Measured times are no part of it: measuring a record again does not make another one.

    Parameters
    ----------
    workload_hash : str
        Structural hash of the description.
    trace : list
        MetaSchedule's JSON.
    lens : str
        The length distribution: one schedule may be the best for several. ``full`` is left out.
    arguments : list, optional
        MetaSchedule's JSON of those it was measured on, where the description leaves their sizes
        open: one schedule may be the best for several shapes.
    """
    parts: list[Any] = [workload_hash, trace]
    if arguments is not None:
        parts.append(arguments)
    if lens != FULL:
        parts.append(lens)
    return digest(parts)


def digest(value: Any) -> str:
    """16 hex digits of SHA-256 over the canonical JSON of ``value``."""
    return text_digest(canonical_json(value))


def canonical_json(value: Any) -> bytes:
    """The JSON of ``value`` that equal values share."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def text_digest(text: bytes) -> str:
    """The :func:`digest` of what ``text`` is the canonical JSON of."""
    return hashlib.sha256(text).hexdigest()[:16]


def own_version() -> str:
    """Version of prefilltune; that of a folder on the path, which nobody installed, is unknown."""
    try:
        return importlib.metadata.version("prefilltune")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def running_tvm_version() -> str:
    """Version of the TVM at hand."""
    try:
        return importlib.metadata.version("apache-tvm")  # `import tvm` would take 3 s
    except importlib.metadata.PackageNotFoundError:  # built from source
        import tvm

        return tvm.__version__


def is_trusted_version(tvm: str) -> bool:
    """Whether the TVM at hand may be trusted with the traces of this one: minor versions agree."""
    return tvm.split(".")[:2] == running_tvm_version().split(".")[:2]


def check_file(data: Any, where: str) -> None:
    """Check the frame of a provenance file; the single records are checked on their own.

    Raises
    ------
    MalformedProvenanceError
        Naming ``where`` and the field at fault.
    """
    if not _is_plain_file(data):
        _check(data, "file", where)


def file_lines(data: Mapping[str, Any]) -> Iterator[bytes]:
    """The lines of a provenance file, newlines left out.

    Each record and each digest has a line of its own: git merges and shows them one by one, and
    a record is read without the others.

    Examples
    --------
    >>> frame = {"schema": 1, "target": "llvm-znver4", "tvm": "0.27.0", "digests": ["0f"]}
    >>> b"".join(file_lines({**frame, "records": {}}))
    b'{"schema": 1,"target": "llvm-znver4","tvm": "0.27.0","digests": ["0f"],"records": {}}'
    """
    yield b"{"
    for name in ("schema", "target", "tvm"):
        yield f"{json.dumps(name)}: {json.dumps(data[name])},".encode()
    yield from _block("digests", "[]", map(json.dumps, sorted(data["digests"])))
    records = sorted(data["records"].items())
    yield from _block(
        "records",
        "{}",
        (f"{json.dumps(id_)}: {json.dumps(value, sort_keys=True)}" for id_, value in records),
    )
    yield b"}"


def _block(name: str, brackets: str, items: Iterable[str]) -> Iterator[bytes]:
    opening, closing = brackets
    yield f"{json.dumps(name)}: {opening}".encode()
    last: str | None = None
    for item in items:
        if last is not None:
            yield f"{last},".encode()
        last = item
    if last is not None:
        yield last.encode()
    yield (closing if name == "records" else f"{closing},").encode()


def is_plain_record(data: Any) -> bool:
    """Whether ``data`` follows the schema for certain.

    Says yes to what :meth:`Provenance.to_json` writes, a hundred times faster than a validator;
    what it says no to is for the validator to judge.
    """
    return (
        type(data) is dict
        and _are_types_of_a_record(tuple(data), tuple(map(type, data.values())))
        and data["spec"] != ""
        and data["space"] != ""
        and 0 < data["median_secs"] < MAX_SECS
        and 0 <= data["spread_secs"] < MAX_SECS
        and 0 <= data["max_abs_error"] < math.inf
        and data["trials"] >= 0
        and _is_shape(data["shape"])
        and _DATE.match(data["date"]) is not None
        and set(map(type, data["variant"].values())) <= _VARIANT_TYPES
        and set(map(type, data["versions"].values())) <= _VERSION_TYPES
        and set(map(type, data["device"].values())) <= _DEVICE_TYPES
    )


@functools.cache  # most records are alike in this
def _are_types_of_a_record(names: tuple[str, ...], types: tuple[type, ...]) -> bool:
    of_name = dict(zip(names, types, strict=True))
    return of_name.keys() == _RECORD_TYPES.keys() and all(
        of_name[name] in allowed for name, allowed in _RECORD_TYPES.items()
    )


@functools.lru_cache(maxsize=4096)
def _is_shape(text: str) -> bool:
    return _SHAPE.fullmatch(text) is not None


def _is_plain_file(data: Any) -> bool:
    return (
        type(data) is dict
        and data.keys() == {"schema", "target", "tvm", "digests", "records"}
        and type(data["schema"]) is int
        and data["schema"] == SCHEMA_VERSION
        and type(data["target"]) is str
        and type(data["tvm"]) is str
        and re.match(r"[0-9]+\.[0-9]+", data["tvm"]) is not None
        and type(data["digests"]) is list
        and set(map(type, data["digests"])) <= {str}
        and type(data["records"]) is dict
    )


def _check_record(data: Any, where: str) -> None:
    if not is_plain_record(data):
        _check(data, "record", where)


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
