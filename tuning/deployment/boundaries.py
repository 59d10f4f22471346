"""Which kernel serves which sizes: boundaries that lose the least of what was measured.

Kernels are valid for any size and differ in speed. Given their times on a sample of shapes, the
boundaries are those of a small decision tree, grown until no measured shape is served by a kernel
noticeably slower than its best. In the terms of Breiman et al., "Classification and Regression
Trees" (1984), the impurity is the time lost.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ...workloads import PrefillShape


class Sizes(NamedTuple):
    """What is known of a call.

    Parameters
    ----------
    batch, qo_len, kv_len : int
        Of packed sequences, which have one length each, ``qo_len`` and ``kv_len`` are means.
    longest : int, optional
        Queries of the longest of packed sequences, where somebody says it.
    """

    batch: int
    qo_len: int
    kv_len: int
    longest: int | None = None

    @classmethod
    def of(cls, shape: PrefillShape) -> Sizes:
        """Those of a shape, as of sequences all of its lengths."""
        return cls(shape.batch, shape.qo_len, shape.num_kv)

    @property
    def mixed(self) -> int:
        """0 where sequences are known to be :func:`alike`. Else 1, for packed sequences are of many
        lengths as a rule.

        >>> [Sizes(4, 128, 128, longest).mixed for longest in (128, 144, 145, 512, None)]
        [0, 0, 1, 1, 1]
        """
        return int(self.longest is None or not alike(self.longest, self.qo_len))


def alike(longest: Any, mean: Any) -> Any:
    """Whether sequences are nearly of one length: the longest is no more than an eighth above the
    mean. Of numbers, or of TVM's expressions, which give one.
    """
    return longest * 8 <= mean * 9


#: What boundaries may ask of :class:`Sizes`.
SIZES = ("batch", "qo_len", "kv_len", "mixed")

#: A kernel this much slower than the best, as a share, is as good.
TOLERANCE = 0.02


@dataclass(frozen=True)
class Point:
    """One shape and how long each kernel takes on it.

    Parameters
    ----------
    shape : PrefillShape
        On which all of them were timed, in turns.
    lens : str
        Length distribution of the batches.
    seconds : Mapping[str, float]
        A call, by the kernel's name; the same names for every point of a sample.
    noise : float
        How far timings of one kernel lay apart there, as a share: interquartile range over median.
    packed : Sizes, optional
        Of the packed sequences that were drawn, if they were such.
    """

    shape: PrefillShape
    lens: str
    seconds: Mapping[str, float]
    noise: float = 0.0
    packed: Sizes | None = None

    @property
    def sizes(self) -> Sizes:
        """What a call of it has."""
        return self.packed or Sizes.of(self.shape)

    def among(self, kernels: Sequence[str]) -> Point:
        """The same with fewer kernels."""
        return replace(self, seconds={each: self.seconds[each] for each in kernels})

    def loss(self, kernel: str) -> float:
        """Time of ``kernel`` over that of the best, minus 1."""
        return self.seconds[kernel] / min(self.seconds.values()) - 1

    def excess(self, kernel: str, tolerance: float) -> float:
        """What of the loss is neither tolerated nor may be noise."""
        return max(0.0, self.loss(kernel) - max(tolerance, self.noise))


@dataclass(frozen=True)
class Leaf:
    """One kernel for all sizes that come here."""

    kernel: str


@dataclass(frozen=True)
class Split:
    """A boundary.

    Parameters
    ----------
    size : str
        One of :data:`SIZES`.
    below : int
        Smaller sizes go to ``less``, all others to ``rest``.
    """

    size: str
    below: int
    less: Tree
    rest: Tree


Tree = Leaf | Split


@dataclass(frozen=True)
class Range:
    """A box of shapes: each size from the first bound on, and below the second if there is one."""

    batch: tuple[int, int | None] = (1, None)
    qo_len: tuple[int, int | None] = (1, None)
    kv_len: tuple[int, int | None] = (1, None)
    mixed: tuple[int, int | None] = (0, None)

    def __str__(self) -> str:
        return self.in_words()

    def in_words(self, length: str = "") -> str:
        """As a person writes it.

        Parameters
        ----------
        length : str
            What a length is, such as ``mean``.

        Examples
        --------
        >>> Range(kv_len=(64, 128), mixed=(0, 1)).in_words("mean")
        '64 <= mean kv_len < 128, lengths alike'
        """
        names = {"batch": "batch", **{n: f"{length} {n}".strip() for n in ("qo_len", "kv_len")}}
        parts = [_interval(name, *getattr(self, size)) for size, name in names.items()]
        parts.append({(0, 1): "lengths alike", (1, None): "mixed lengths"}.get(self.mixed, ""))
        return ", ".join(filter(None, parts)) or "every shape"


def grow(points: Sequence[Point], tolerance: float = TOLERANCE) -> Tree:
    """The boundaries for a sample of shapes.

    Parameters
    ----------
    points : Sequence[Point]
        One or more. A kernel has to serve all distributions of a shape, which is known at the
        call as its lengths are not.
    tolerance : float
        Loss on a measured shape that is not worth another boundary.

    Examples
    --------
    >>> sample = [(128, 1.0, 2.0), (512, 4.0, 3.0)]
    >>> grow([Point(PrefillShape(1, n), "full", {"a": a, "b": b}) for n, a, b in sample])
    Split(size='kv_len', below=256, less=Leaf(kernel='a'), rest=Leaf(kernel='b'))
    """
    kernel = _best(points, tolerance)
    if not any(point.excess(kernel, tolerance) for point in points):
        return Leaf(kernel)
    parted = [(size, below, *_part(points, size, below)) for size, below in _candidates(points)]
    if not parted:  # one shape
        return Leaf(kernel)
    size, below, less, rest = min(parted, key=lambda each: _lost(each[2:], tolerance))
    return _joined(Split(size, below, grow(less, tolerance), grow(rest, tolerance)))


def choose(tree: Tree, sizes: Sizes) -> str:
    """The kernel that serves a call."""
    while isinstance(tree, Split):
        tree = tree.less if getattr(sizes, tree.size) < tree.below else tree.rest
    return tree.kernel


def ranges(tree: Tree, within: Range | None = None) -> Iterator[tuple[Range, str]]:
    """Every leaf with the shapes that come to it."""
    within = within or Range()
    if isinstance(tree, Leaf):
        yield within, tree.kernel
        return
    first, end = getattr(within, tree.size)
    yield from ranges(tree.less, replace(within, **{tree.size: (first, tree.below)}))
    yield from ranges(tree.rest, replace(within, **{tree.size: (tree.below, end)}))


def leaves(tree: Tree) -> list[str]:
    """Every kernel of a tree, once."""
    return list(dict.fromkeys(kernel for _, kernel in ranges(tree)))


def _joined(split: Split) -> Tree:
    """The same without a boundary that has the same kernels on both its sides.

    >>> a, b = Leaf("a"), Leaf("b")
    >>> _joined(Split("kv_len", 64, a, Split("kv_len", 128, a, b)))
    Split(size='kv_len', below=128, less=Leaf(kernel='a'), rest=Leaf(kernel='b'))
    """
    less, rest = split.less, split.rest
    if less == rest:
        return less
    if isinstance(rest, Split) and (rest.size, rest.less) == (split.size, less):
        return rest
    if isinstance(less, Split) and (less.size, less.rest) == (split.size, rest):
        return less
    return split


def _best(points: Sequence[Point], tolerance: float) -> str:
    """The kernel that loses least; of equals the one that is first by name."""
    return min(sorted(points[0].seconds), key=lambda kernel: _loss(points, kernel, tolerance))


def _loss(points: Sequence[Point], kernel: str, tolerance: float) -> tuple[float, float]:
    """What is lost in excess over all points; and, among kernels that lose none, all that is."""
    return (
        math.fsum(math.log1p(point.excess(kernel, tolerance)) for point in points),
        math.fsum(math.log1p(point.loss(kernel)) for point in points),
    )


def _lost(parts: Sequence[Sequence[Point]], tolerance: float) -> tuple[float, float]:
    """The losses of several parts, each by its best kernel."""
    losses = [_loss(points, _best(points, tolerance), tolerance) for points in parts]
    return math.fsum(excess for excess, _ in losses), math.fsum(loss for _, loss in losses)


def _candidates(points: Sequence[Point]) -> Iterator[tuple[str, int]]:
    """Boundaries between neighbouring sizes: halfway, as lengths are: by their ratio."""
    for size in SIZES[::-1]:
        found = sorted({getattr(point.sizes, size) for point in points})
        for one, other in itertools.pairwise(found):
            yield size, max(one + 1, round(math.sqrt(one * other)))


def _part(points: Sequence[Point], size: str, below: int) -> tuple[list[Point], list[Point]]:
    less = [point for point in points if getattr(point.sizes, size) < below]
    rest = [point for point in points if getattr(point.sizes, size) >= below]
    return less, rest


def _interval(size: str, first: int, end: int | None) -> str:
    if end is None:
        return f"{size} >= {first}" if first > 1 else ""
    return f"{size} < {end}" if first == 1 else f"{first} <= {size} < {end}"
