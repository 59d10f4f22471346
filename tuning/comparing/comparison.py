"""What a comparison is, on disk: one JSON file of cases, schema-versioned and validated."""

from __future__ import annotations

import contextlib
import json
import shlex
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from ...database import NotWritableError
from ...database.durable import write_atomically
from ...database.locking import changing
from ...database.writing import rescued
from ...workloads import PrefillShape, PrefillSpec
from ..backends import backend_of
from ..backends.commands import on_device
from ..errors import InvalidComparisonError

SCHEMA_VERSION = 3

#: A peer that takes padded tensors and heeds the mask, as a tuned kernel of such does.
MASKED = "masked"
#: One whose input was packed before the clock started: right, but where the tuned kernel takes
#: padded tensors of another layout, in which there is no padding.
PACKED = "packed"
#: One without a mask: wrong on padding, and a ceiling for what dense attention reaches.
DENSE = "dense"

#: Name of our kernel of padded tensors among what is compared with one of packed tensors.
PADDED = "padded"

#: Why a case has no time of TVM's hand-written kernel where TVM has none that computes it.
NO_BASELINE = "TVM has none"


@dataclass(frozen=True)
class Peer:
    """How a kernel of another library did.

    Parameters
    ----------
    kind : str
        :data:`MASKED`, :data:`PACKED` or :data:`DENSE`.
    ms : float or None
        Median milliseconds a call; None for a failure.
    failure : str
        Why there is no time, if only that the peer does not compute it; empty if there is one.
    max_abs_error : float or None
        On valid rows, and on those of padding if it makes them zeros; None where it was not
        checked, as for :data:`DENSE`.
    zeros : bool or None
        Whether it makes rows of padding zeros; None where a file of an earlier version does not
        say.
    right_padded : bool
        Whether it computed sequences of the same lengths padded on the right, for it knows no
        others.
    computes_it : bool
        Whether it is installed and has a way to compute the case: if not, that there is no time is
        no failure.
    """

    kind: str
    ms: float | None
    failure: str = ""
    max_abs_error: float | None = None
    zeros: bool | None = None
    right_padded: bool = False
    computes_it: bool = True


def writes_zeros(spec: PrefillSpec) -> bool:
    """Whether kernels of a spec write zeros into rows of padding, or leave them as they were."""
    return spec.padding_output == "zero" and not spec.is_packed


def has_padding(shape: PrefillShape, batches: Iterable[Sequence[int]]) -> bool:
    """Whether any row of an output is padding."""
    return any(length < shape.qo_len for lens in batches for length in lens)


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
    baseline_ms : float or None
        Of TVM's hand-written kernel; None if it failed, or TVM has none.
    stock_ms : float or None
        Of the best record of TVM's stock rules; None without one.
    stock_trials : int or None
        Candidates of the stock rules measured in the search that found it.
    unscheduled_ms : float or None
        Of the plain description compiled as it is; None on a GPU, where that is no kernel.
    peers : Mapping[str, Peer]
        Kernels of other libraries, by name; those that failed too.
    limit_gflops, tuned_gflops : float
        The machine's matrix product peak measured in the same run, and the tuned kernel's rate on
        useful work (pairs that the mask keeps).
    max_abs_error : float
        Largest error of the tuned kernel over every regime of lengths.
    spread_ms : Mapping[str, float]
        Interquartile range of each contestant's times.
    baseline_failure : str
        Why TVM's hand-written kernel has no time; empty if it has one.
    clocks_mhz : Mapping[str, int]
        Of a GPU under load, where its driver tells; ``sm`` and ``memory``, and ``sm_max``.
    padded_ms : float or None
        Of a tuned kernel of padded tensors on the same sequences, beside one of packed tensors;
        None where there is no record for it, or the case is of padded tensors itself.
    cold_ms : Mapping[str, float]
        Of each contestant on a GPU, with inputs and outputs that rotate past its L2 cache; ``ms``
        is with inputs that may lie in it.
    timed_elsewhere : Mapping[str, str]
        What timed the record of a contestant of ours, where that was not this device with as many
        threads; empty for a record that was checked and never timed.
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
    baseline_ms: float | None
    stock_ms: float | None
    stock_trials: int | None
    unscheduled_ms: float | None
    peers: Mapping[str, Peer]
    limit_gflops: float
    tuned_gflops: float
    max_abs_error: float
    spread_ms: Mapping[str, float]
    baseline_failure: str = ""
    clocks_mhz: Mapping[str, int] = field(default_factory=dict)
    cold_ms: Mapping[str, float] = field(default_factory=dict)
    padded_ms: float | None = None
    timed_elsewhere: Mapping[str, str] = field(default_factory=dict)

    @property
    def case(self) -> tuple[str, ...]:
        """What identifies a case; a later run of the same case replaces the earlier one."""
        return (self.spec, self.shape, self.lens, self.target, self.device)

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        kind, _, _ = self.target.partition("-")
        return not backend_of(kind).is_cpu

    @property
    def share_of_limit(self) -> float:
        """The tuned kernel's rate over the machine's peak."""
        return self.tuned_gflops / self.limit_gflops

    @property
    def has_padding(self) -> bool:
        """Whether any row of an output is padding."""
        padded = has_padding(PrefillShape.parse(self.shape), self.valid_lens)
        return padded and not self.is_packed

    @property
    def is_packed(self) -> bool:
        """Whether the tuned kernel takes packed tensors."""
        return PrefillSpec.parse(self.spec).is_packed

    @property
    def writes_zeros(self) -> bool:
        """Whether there is padding that the tuned kernel makes zeros."""
        return self.has_padding and writes_zeros(PrefillSpec.parse(self.spec))

    @property
    def alike(self) -> list[str]:
        """Peers that are right on padding, and leave in it what the tuned kernel leaves.

        Where that writes zeros, others are timed with zeros behind, too. Files of an earlier
        version do not say who writes them: there it is all that take the same tensors. Beside a
        kernel of packed tensors it is those that take such.
        """
        if self.is_packed:
            return [name for name, peer in self.peers.items() if peer.kind == PACKED]
        anything = not self.writes_zeros
        return [
            name
            for name, peer in self.peers.items()
            if (peer.kind == MASKED and peer.zeros in (None, True))
            or (peer.kind != DENSE and peer.zeros is not None and anything)
        ]

    @property
    def best(self) -> tuple[str, float] | None:
        """Name and milliseconds of the fastest of :attr:`alike`; None if none was timed."""
        return _fastest({name: self.peers[name].ms for name in self.alike})

    def speedup(self, ms: float | None) -> float | None:
        """How many times faster than ``ms`` the tuned kernel is; None without a time."""
        return None if ms is None else ms / self.tuned_ms

    @property
    def over_best(self) -> float | None:
        """Speed over the fastest of :attr:`alike`."""
        return self.best and self.speedup(self.best[1])

    @property
    def over_best_cold(self) -> float | None:
        """The same where inputs and outputs rotate past the cache; which is fastest may differ."""
        best = _fastest({name: self.cold_ms.get(name) for name in self.alike})
        tuned = self.cold_ms.get("tuned")
        return best[1] / tuned if best and tuned else None

    def over_peer(self, name: str) -> float | None:
        """Speed over one peer; None if it has no time."""
        return self.speedup(self.peers[name].ms) if name in self.peers else None

    @property
    def over_baseline(self) -> float | None:
        """Speed over TVM's hand-written kernel."""
        return self.speedup(self.baseline_ms)

    def elsewhere(self, name: str = "tuned") -> str:
        """Where the record of a contestant of ours was timed, in words; empty if it was here."""
        where = self.timed_elsewhere.get(name)
        return "" if where is None else on_device(where)


def _fastest(times: Mapping[str, float | None]) -> tuple[str, float] | None:
    timed = [(name, ms) for name, ms in times.items() if ms is not None]
    return min(timed, key=lambda named: named[1], default=None)


def geometric_mean(
    comparisons: Iterable[Comparison], figure: Callable[[Comparison], float | None]
) -> float | None:
    """Over the cases that have the figure; None if none has.

    Examples
    --------
    >>> geometric_mean([], lambda each: each.over_best) is None
    True
    """
    found = [value for each in comparisons if (value := figure(each)) is not None]
    return statistics.geometric_mean(found) if found else None


def read_comparisons(path: Path) -> list[Comparison]:
    """The cases of a comparison file, in its order; none if the file is missing.

    Raises
    ------
    InvalidComparisonError
        If the file does not follow the schema.
    """
    if not path.exists():
        return []
    return list(_parsed(path.read_bytes(), str(path)))


def readable(cases: Iterable[Comparison]) -> list[Comparison]:
    """Those of specs that this version has; what another wrote besides stays in the file."""
    return [each for each in cases if PrefillSpec.known(each.spec) is not None]


@lru_cache(maxsize=8)  # a page asks for the cases of each target several times
def _parsed(content: bytes, where: str) -> list[Comparison]:
    try:
        data = json.loads(content)
    except ValueError as error:
        raise InvalidComparisonError(
            f"{where} is no JSON ({error}); restore it from git, or delete it and compare again"
        ) from None
    return parse_comparisons(data, where)


def parse_comparisons(data: Any, where: str) -> list[Comparison]:
    """The cases that the JSON of a comparison file holds; ``where`` names its origin in errors.

    Raises
    ------
    InvalidComparisonError
        If it does not follow the schema.
    """
    _validate(data, where)
    return [_comparison(fields) for fields in data["cases"]]


def write_comparisons(path: Path, comparisons: Iterable[Comparison]) -> list[Comparison]:
    """Add cases to a comparison file, replacing earlier runs of the same ones.

    Returns
    -------
    list[Comparison]
        Everything the file now holds.

    Raises
    ------
    NotWritableError
        If it cannot be written; says where the cases are instead.
    """
    new = list(comparisons)
    try:
        with changing(path):
            cases = _added(read_comparisons(path), new)
            write_atomically(path, [_file(cases, str(path))])
    except NotWritableError as error:
        others: list[Comparison] = []
        with contextlib.suppress(OSError, InvalidComparisonError):
            others = read_comparisons(path)
        content = _file(_added(others, new), str(path)) + b"\n"
        mend = (
            "what was compared is in {path}; once that is mended: mv {path} "
            f"{shlex.quote(str(path))}"
        )
        raise rescued(error, path.name, content, mend) from error
    return cases


def _added(old: Iterable[Comparison], new: Iterable[Comparison]) -> list[Comparison]:
    """All cases, each once: as the later run found it, in the place of the earlier one."""
    return list({each.case: each for each in (*old, *new)}.values())


def _file(comparisons: Iterable[Comparison], where: str) -> bytes:
    cases = [
        {**asdict(each), "valid_lens": [list(lens) for lens in each.valid_lens]}
        for each in comparisons
    ]
    data = {"schema": SCHEMA_VERSION, "cases": cases}
    _validate(data, where)
    return json.dumps(data, indent=1).encode()


def _comparison(fields: Mapping[str, Any]) -> Comparison:
    return Comparison(
        **{
            **fields,
            "valid_lens": tuple(map(tuple, fields["valid_lens"])),
            "peers": {name: _peer(each) for name, each in fields["peers"].items()},
        }
    )


def _peer(value: Mapping[str, Any] | float) -> Peer:
    """Version 1 knew masked peers alone, and kept only their times.

    Version 2 told what a peer has no way to compute by the words of its failure.
    """
    if isinstance(value, (int, float)):
        return Peer(MASKED, value)
    lacks = value.get("failure", "").startswith("takes no ")
    return Peer(**{"computes_it": not lacks, **value})


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
    path = Path(__file__).parent / "comparison.schema.json"
    return json.loads(path.read_text(encoding="utf-8"))
