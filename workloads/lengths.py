"""How long the sequences of a batch are: named distributions of ``valid_lens``."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import InvalidLengthsError

if TYPE_CHECKING:
    import numpy as np

_DRAWN_SEQUENCES = 8
_FORMS = "full, uniform, uniform:LOW-HIGH, fixed:N,N,... or histogram:PATH"


class LengthDistribution(ABC):
    """Where the lengths of a batch come from."""

    @property
    @abstractmethod
    def text(self) -> str:
        """The canonical text, used in file names, records and reports."""

    @abstractmethod
    def sample(self, batch: int, max_len: int, seed: int) -> np.ndarray:
        """Draw the lengths of one batch.

        Parameters
        ----------
        batch : int
            How many.
        max_len : int
            Positions of each sequence, padding included; no length exceeds it.
        seed : int
            The same seed gives the same lengths.

        Returns
        -------
        np.ndarray
            ``[batch]`` int32.
        """

    def batches(self, batch: int, max_len: int, seed: int) -> tuple[tuple[int, ...], ...]:
        """Several batches, so that small ones too show the distribution and not one draw of it.

        Returns
        -------
        tuple of tuple of int
            As many batches as hold eight sequences or more; one where all draws are alike.
        """
        count = -(-_DRAWN_SEQUENCES // batch)
        drawn = [int(each) for each in self.sample(count * batch, max_len, seed)]
        batches = (drawn[start : start + batch] for start in range(0, len(drawn), batch))
        return tuple(dict.fromkeys(map(tuple, batches)))


@dataclass(frozen=True)
class FullLengths(LengthDistribution):
    """No padding at all."""

    @property
    def text(self) -> str:
        return "full"

    def sample(self, batch: int, max_len: int, seed: int) -> np.ndarray:
        import numpy as np

        return np.full(batch, max_len, np.int32)


@dataclass(frozen=True)
class UniformLengths(LengthDistribution):
    """Every whole number in a range equally often.

    Parameters
    ----------
    low, high : Decimal
        Ends of the range, both included, as fractions of ``max_len``; rounded up to whole
        lengths of at least 1. A quarter to full when absent.

    Raises
    ------
    InvalidLengthsError
        Unless ``0 <= low <= high <= 1`` and ``high > 0``.
    """

    low: Decimal = Decimal("0.25")
    high: Decimal = Decimal(1)

    def __post_init__(self) -> None:
        if not (0 <= self.low <= self.high <= 1 and self.high > 0):
            raise InvalidLengthsError(
                f"uniform lengths from {self.low} to {self.high}: the ends are fractions of the "
                "longest sequence with 0 <= LOW <= HIGH <= 1 and HIGH above 0; "
                "write for instance uniform:0.125-1"
            )

    @property
    def text(self) -> str:
        if self == UniformLengths():
            return "uniform"
        return f"uniform:{self.low.normalize():f}-{self.high.normalize():f}"

    def sample(self, batch: int, max_len: int, seed: int) -> np.ndarray:
        import numpy as np

        low, high = (max(1, math.ceil(end * max_len)) for end in (self.low, self.high))
        generator = np.random.default_rng(seed)
        # One draw in each of `batch` equal strata: a few sequences then show the whole range.
        share = (generator.permutation(batch) + generator.random(batch)) / batch
        return (low + np.floor(share * (high - low + 1))).astype(np.int32)


@dataclass(frozen=True)
class FixedLengths(LengthDistribution):
    """Given lengths, repeated over the batch.

    Parameters
    ----------
    lengths : tuple[int, ...]
        At least one, each 0 or more.

    Raises
    ------
    InvalidLengthsError
        For no length or a negative one; from :meth:`sample` for one above ``max_len``.
    """

    lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.lengths or min(self.lengths) < 0:
            raise InvalidLengthsError(
                f"fixed lengths {self.lengths}: give one or more whole numbers of 0 or more, "
                "such as fixed:3,17,128"
            )

    @property
    def text(self) -> str:
        return "fixed:" + ",".join(str(length) for length in self.lengths)

    def sample(self, batch: int, max_len: int, seed: int) -> np.ndarray:
        # Not clamped: who names a length wants that one measured.
        longest = max(self.lengths)
        if longest > max_len:
            raise InvalidLengthsError(
                f"{self.text}: length {longest} exceeds the sequence length {max_len} of the "
                "shape; lower it or choose a longer shape"
            )
        import numpy as np

        return np.resize(np.array(self.lengths, np.int32), batch)


@dataclass(frozen=True)
class HistogramLengths(LengthDistribution):
    """Lengths as often as they were counted in real traffic.

    Parameters
    ----------
    name : str
        What the histogram is called: the stem of its file's name.
    counts : tuple[tuple[int, int], ...]
        ``(length, count)`` by rising length, each length once, each count 1 or more. Lengths
        above ``max_len`` are clamped to it, as serving truncates.
    """

    name: str
    counts: tuple[tuple[int, int], ...]

    @property
    def text(self) -> str:
        """``histogram:NAME-HASH``: the content counts, not where the file lay.

        The file cannot be found again from it: :func:`parse_lengths` wants the path.
        """
        content = "".join(f"{length},{count}\n" for length, count in self.counts)
        return f"histogram:{self.name}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"

    def sample(self, batch: int, max_len: int, seed: int) -> np.ndarray:
        import numpy as np

        lengths, counts = np.array(self.counts).T
        drawn = np.random.default_rng(seed).choice(lengths, batch, p=counts / counts.sum())
        return np.minimum(drawn, max_len).astype(np.int32)

    @classmethod
    def read(cls, path: Path) -> HistogramLengths:
        """Read a histogram.

        Parameters
        ----------
        path : Path
            ``*.json``: a list of ``[length, count]`` pairs; ``*.csv``: lines ``length,count``,
            of which the first may be the header ``length,count``. The counts of a length given
            twice add up.

        Raises
        ------
        InvalidLengthsError
            If the file cannot be read, has another form, or holds a length below 0 or a count
            below 1.
        """
        readers = {".json": _json_pairs, ".csv": _csv_pairs}
        reader = readers.get(path.suffix.lower())
        if reader is None:
            raise InvalidLengthsError(
                f"{path}: is no .json or .csv file; give the path of one "
                "(a record's text names a histogram's content, not its file)"
            )
        try:
            pairs = reader(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InvalidLengthsError(
                f"{path}: cannot be read ({error.strerror}); give the path of a histogram file"
            ) from error
        except UnicodeDecodeError as error:
            raise InvalidLengthsError(f"{path}: is no UTF-8 text; write it anew as such") from error
        except _MalformedError as error:
            raise InvalidLengthsError(f"{path}: {error}") from error
        totals: Counter[int] = Counter()
        for length, count in pairs:
            if length < 0 or count < 1:
                raise InvalidLengthsError(
                    f"{path}: length {length} with count {count}; lengths are 0 or more and "
                    "counts 1 or more: correct or remove the pair"
                )
            totals[length] += count
        if not totals:
            raise InvalidLengthsError(f"{path}: holds no length,count pair; add at least one")
        return cls(path.stem, tuple(sorted(totals.items())))


class _MalformedError(ValueError):
    """A histogram's text is not of its form."""


def _json_pairs(text: str) -> list[tuple[int, int]]:
    form = "it must be a list of [length, count] pairs of whole numbers: rewrite it so"
    try:
        content = json.loads(text)
    except ValueError as error:
        raise _MalformedError(f"is no JSON ({error}); {form}") from error
    if not isinstance(content, list):
        raise _MalformedError(f"holds a {type(content).__name__}; {form}")
    for index, pair in enumerate(content):
        # type(), not isinstance(): true is no count.
        if not (isinstance(pair, list) and [type(number) for number in pair] == [int, int]):
            raise _MalformedError(f"item {index} is {json.dumps(pair)}; {form}")
    return [(length, count) for length, count in content]


def _csv_pairs(text: str) -> list[tuple[int, int]]:
    pairs = []
    reader = csv.reader(text.splitlines())
    for row in reader:
        cells = [cell.strip() for cell in row]
        if not any(cells) or (reader.line_num == 1 and cells == ["length", "count"]):
            continue
        if len(cells) != 2 or not all(re.fullmatch(r"-?\d+", cell) for cell in cells):
            raise _MalformedError(
                f"line {reader.line_num} is {','.join(row)!r}; every line must be length,count "
                "in whole numbers: rewrite it so"
            )
        pairs.append((int(cells[0]), int(cells[1])))
    return pairs


def names_a_file(text: str) -> bool:
    """Whether lengths are those of a file, of which the text of a record holds no more than a hash.

    Examples
    --------
    >>> names_a_file("histogram:served-0123abcd"), names_a_file("uniform")
    (True, False)
    """
    return text.startswith("histogram:")


def parse_lengths(text: str) -> LengthDistribution:
    """Read a distribution: ``full``, ``uniform``, ``uniform:LOW-HIGH``, ``fixed:N,N,...`` or
    ``histogram:PATH``.

    For all but a histogram (whose canonical text names the content, not the file),
    ``parse_lengths(distribution.text) == distribution``.

    Raises
    ------
    InvalidLengthsError
        If ``text`` has none of these forms, a number is out of its range, or the file of a
        histogram is missing or malformed.

    Examples
    --------
    >>> parse_lengths("uniform:0.25-1").text
    'uniform'
    >>> parse_lengths("fixed:3,17").sample(3, 128, seed=0).tolist()
    [3, 17, 3]
    """
    kind, _, argument = text.partition(":")
    if text == "full":
        return FullLengths()
    if text == "uniform":
        return UniformLengths()
    if kind == "uniform" and (ends := re.fullmatch(r"(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)", argument)):
        return UniformLengths(Decimal(ends[1]), Decimal(ends[2]))
    if kind == "fixed" and re.fullmatch(r"\d+(,\d+)*", argument):
        return FixedLengths(tuple(int(length) for length in argument.split(",")))
    if kind == "histogram" and argument:
        return HistogramLengths.read(Path(argument))
    raise InvalidLengthsError(f"{text!r} is no distribution of lengths; write {_FORMS}")


def regimes(batch: int, max_len: int) -> list[np.ndarray]:
    """The ``valid_lens`` on which a kernel is verified.

    All full, all empty, all of length 1; a mix of those with lengths in between; lengths out of
    range on both sides. A mix that does not fit into one batch takes several, so that a batch of
    1 meets every length too.

    Returns
    -------
    list[np.ndarray]
        Each ``[batch]`` int32.

    Examples
    --------
    >>> [lens.tolist() for lens in regimes(4, 8)]
    [[8, 8, 8, 8], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 8, 5], [6, 0, 1, 8], [-3, 15, 4, -3]]
    """
    import numpy as np

    cycles = [
        (max_len,),
        (0,),
        (1,),
        (0, 1, max_len, max_len // 2 + 1, 3 * max_len // 4),
        (-3, max_len + 7, max_len // 2),
    ]
    return [
        lens
        for cycle in cycles
        for lens in np.resize(np.array(cycle, np.int32), (-(-len(cycle) // batch), batch))
    ]


def check_batches(batch: int, max_len: int, seed: int) -> list[tuple[int, ...]]:
    """The :func:`regimes` and a batch of uniform lengths: what a kernel is checked on."""
    drawn = UniformLengths().sample(batch, max_len, seed)
    return [tuple(int(each) for each in lens) for lens in (*regimes(batch, max_len), drawn)]
