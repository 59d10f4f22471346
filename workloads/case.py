"""What is tuned and compared: a workload under a length distribution."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .lengths import LengthDistribution, check_batches
from .shapes import PrefillShape
from .spec import PrefillSpec


@dataclass(frozen=True)
class Case:
    """A workload, the lengths of its batches, and the seed that they and the inputs come from.

    Parameters
    ----------
    lens : LengthDistribution
        Of the batches that kernels are timed on.
    seed : int
        Of the inputs, the lengths, and a search.
    """

    spec: PrefillSpec
    shape: PrefillShape
    lens: LengthDistribution
    seed: int = 0

    @property
    def as_tuned(self) -> Case:
        """What a search is for: the case of what its spec amounts to in its shape."""
        return replace(self, spec=self.spec.within(self.shape))

    def batches(self) -> tuple[tuple[int, ...], ...]:
        """Valid lengths of the batches that kernels are timed on."""
        return self.lens.batches(self.shape.batch, self.shape.num_kv, self.seed)

    def check_lens(self) -> tuple[int, ...]:
        """An irregular batch on which every candidate is checked besides the one it is timed on."""
        length = self.shape.num_kv
        cycle = (length // 2 + 1, 0, 1, length, length + 7, 3 * length // 4)
        return tuple(cycle[index % len(cycle)] for index in range(self.shape.batch))

    def regime_batches(self, offset: int) -> list[tuple[int, ...]]:
        """Valid lengths of batches of every regime, drawn anew for each ``offset`` of the seed."""
        longest = max(self.shape.qo_len, self.shape.num_kv)
        return check_batches(self.shape.batch, longest, self.seed + offset)

    def on(self, target: object) -> str:
        """Its name, for people and files, on the target whose key is given.

        >>> from .lengths import parse_lengths
        >>> case = Case(PrefillSpec(4, 2, 64), PrefillShape(1, 8), parse_lengths("full"))
        >>> case.on("llvm-znver4-2c")
        'padded_hq4_hkv2_d64_float16_s0.125 b1_q8_kv8 on llvm-znver4-2c (full lengths)'
        """
        return f"{self.spec} {self.shape} on {target} ({self.lens.text} lengths)"
