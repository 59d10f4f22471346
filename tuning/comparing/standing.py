"""How tuned kernels stand on one device: speeds over many cases as means with their spread."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..counting import count
from .comparison import Comparison
from .report import peer_title

#: What tuned kernels are held against, in the order in which it is shown.
STRONGEST, STOCK, HAND_WRITTEN = "strongest", "stock", "hand-written"

#: What each of them is, for people.
RIVALS = {
    STRONGEST: "strongest other that is right on padding",
    STOCK: "TVM's stock schedule rules",
    HAND_WRITTEN: "TVM's hand-scheduled kernel",
}

# The first of them where nothing but PyTorch's took part in any of the cases.
_STRONGEST_OF_PYTORCH = "strongest of PyTorch's that is right on padding"
_OF_PYTORCH = "torch_"

_TIMES: dict[str, Callable[[Comparison], float | None]] = {
    STRONGEST: lambda each: each.over_best,
    STOCK: lambda each: each.speedup(each.stock_ms),
    HAND_WRITTEN: lambda each: each.over_baseline,
}

# Nearer to 1 than this, a speed is no difference to speak of.
_ALIKE = 0.005


@dataclass(frozen=True)
class Mean:
    """A geometric mean over cases, and how far the cases lie apart.

    Parameters
    ----------
    mean : float
        Geometric.
    least, most : float
        Over the cases.
    cases : int
        How many have the figure.
    ahead : int
        In how many of them it is above 1.
    """

    mean: float
    least: float
    most: float
    cases: int
    ahead: int

    @classmethod
    def over(cls, figures: Iterable[float | None]) -> Mean | None:
        """Over the figures that there are; None if there is none.

        Examples
        --------
        >>> Mean.over([0.5, 1.0, 2.0, None])
        Mean(mean=1.0, least=0.5, most=2.0, cases=3, ahead=1)
        >>> Mean.over([None]) is None
        True
        """
        found = [each for each in figures if each is not None]
        if not found:
            return None
        ahead = sum(each > 1 for each in found)
        mean = statistics.geometric_mean(found)
        return cls(mean, min(found), max(found), len(found), ahead)


@dataclass(frozen=True)
class Standing:
    """What a person wants to know of all cases of a device.

    Parameters
    ----------
    device : str
        Its name.
    cases : int
        How many.
    gflops, limit_gflops : float
        Geometric means of the tuned kernels' rate on useful work, and of the device's.
    share : Mean
        Of the limit that tuned kernels reach.
    over : Mapping[str, Mean]
        How many times as fast tuned kernels are, by :data:`RIVALS`, over the cases that have both.
    strongest : Mapping[str, int]
        Names of those that were the strongest, the most frequent first, and in how many cases.
    only_pytorch : bool
        Whether none but PyTorch's could have been the strongest in any case.
    elsewhere : Mapping[str, int]
        Where records were timed, if not on the device, and of how many cases.
    """

    device: str
    cases: int
    gflops: float
    limit_gflops: float
    share: Mean
    over: Mapping[str, Mean]
    strongest: Mapping[str, int]
    only_pytorch: bool
    elsewhere: Mapping[str, int]

    @classmethod
    def of(cls, comparisons: Sequence[Comparison]) -> Standing:
        """Of one or more cases of one device."""
        share = Mean.over(each.share_of_limit for each in comparisons)
        assert share is not None, "there is no case"
        means = {name: Mean.over(map(figure, comparisons)) for name, figure in _TIMES.items()}
        best = (each.best for each in comparisons)
        names = Counter(peer_title(name) for name, _ in filter(None, best))
        return cls(
            comparisons[0].device,
            len(comparisons),
            statistics.geometric_mean(each.tuned_gflops for each in comparisons),
            statistics.geometric_mean(each.limit_gflops for each in comparisons),
            share,
            {name: mean for name, mean in means.items() if mean is not None},
            dict(names.most_common()),
            all(
                name.startswith(_OF_PYTORCH)
                for each in comparisons
                for name, peer in each.peers.items()
                if peer.ms is not None
            ),
            dict(Counter(filter(None, (each.elsewhere() for each in comparisons))).most_common()),
        )

    @property
    def rivals(self) -> Mapping[str, str]:
        """What tuned kernels are held against in these cases: :data:`RIVALS`."""
        return {**RIVALS, STRONGEST: _STRONGEST_OF_PYTORCH} if self.only_pytorch else RIVALS

    def figures(self) -> Iterator[tuple[str, Mean]]:
        """Each of :attr:`rivals` that has a mean, as a heading, and the mean."""
        for name, title in self.rivals.items():
            if (over := self.over.get(name)) is not None:
                yield title[0].upper() + title[1:], over

    def sentence(self) -> str:
        """What the figures come to; true of these cases and of no others."""
        limit = f"{self.share.mean:.0%} of the chip's limit"
        origins = f" {self.origins[0].upper()}{self.origins[1:]}." if self.origins else ""
        over = self.over.get(STRONGEST)
        if over is None:
            return f"On {self.device}, tuned kernels reach {limit}.{origins}"
        speed = _speed(over.mean)
        span = f"{over.least:.2f} to {over.most:.2f} times, " if over.cases > 1 else ""
        return (
            f"On {self.device}, tuned kernels {speed} the {self.rivals[STRONGEST]} "
            f"({span}{_ahead(over)}), and reach {limit}.{origins}"
        )

    @property
    def origins(self) -> str:
        """Where records were timed, in words; empty where all were on the device."""
        return ", ".join(
            f"{count(cases, 'record')} of {self.cases} timed {where}"
            for where, cases in self.elsewhere.items()
        )


def times(ratio: float) -> str:
    """To three digits.

    >>> times(1.528), times(609.2)
    ('1.53x', '609x')
    """
    return f"{ratio:.0f}x" if ratio >= 100 else f"{ratio:.3g}x"


def _speed(ratio: float) -> str:
    if ratio >= 1 + _ALIKE:
        return f"are {ratio:.2f} times as fast as"
    if ratio <= 1 - _ALIKE:
        return f"take {1 / ratio:.2f} times as long as"
    return "are as fast as"


def _ahead(over: Mean) -> str:
    if over.cases == 1:
        return "ahead in the one case" if over.ahead else "behind in the one case"
    if over.ahead == over.cases:
        return f"ahead in all {over.cases} cases"
    return f"ahead in {over.ahead} of {over.cases} cases"
