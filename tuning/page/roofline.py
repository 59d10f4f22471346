"""What binds a kernel: the device's arithmetic, its memory, or neither.

After Williams, Waterman and Patterson, "Roofline" (2009): a kernel is no faster than the matrix
product that the device was seen to reach, nor than its memory delivers the least that it must read
and write.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import numpy as np

from ...workloads import PrefillShape, PrefillSpec, numpy_dtype, useful_flops
from ..comparing.comparison import Comparison, writes_zeros

#: GB/s of the memory of GPUs, from their makers' data sheets, by a part of the device's name; of
#: several that are part of it, the longest counts.
BANDWIDTHS = {
    "A100": 1555,
    "A100-SXM4-80GB": 2039,
    "A100 80GB PCIe": 1935,
    "A10": 600,
    "B200": 8000,
    "GeForce RTX 3090": 936,
    "GeForce RTX 4090": 1008,
    "GeForce RTX 5090": 1792,
    "GH200 480GB": 4000,
    "H100 80GB HBM3": 3350,
    "H100 NVL": 3900,
    "H100 PCIe": 2000,
    "H200": 4800,
    "L4": 300,
    "L40": 864,
    "L40S": 864,
    "Tesla T4": 320,
}

# Farther below its roof than this, something else takes the time.
_FAR = 0.4


@dataclass(frozen=True)
class Roofline:
    """A case under its roof.

    Parameters
    ----------
    flops, moved : float
        Useful operations of a call, and the fewest bytes it must read and write.
    gflops : float
        What the tuned kernel reaches.
    peak_gflops : float
        Of a matrix product in the same run.
    bandwidth : float or None
        GB/s of the memory; None where it is not known.
    """

    flops: float
    moved: float
    gflops: float
    peak_gflops: float
    bandwidth: float | None

    @property
    def intensity(self) -> float:
        """Operations a byte."""
        return self.flops / self.moved

    @property
    def roof(self) -> float:
        """The most GFLOP/s that the device allows at this intensity."""
        if self.bandwidth is None:
            return self.peak_gflops
        return min(self.peak_gflops, self.bandwidth * self.intensity)

    @property
    def binds(self) -> str:
        """``memory`` or ``arithmetic``."""
        return "memory" if self.roof < self.peak_gflops else "arithmetic"

    def sentence(self) -> str:
        """What binds it, and how far it comes."""
        share = self.gflops / self.roof
        if self.bandwidth is None:
            return (
                f"{self.intensity:.0f} operations a byte; it reaches {share:.0%} of what the "
                "device's arithmetic allows. Its memory's bandwidth is not known."
            )
        roof = {
            "memory": "what memory can deliver",
            "arithmetic": "what a matrix product reaches",
        }[self.binds]
        said = f"{self.intensity:.0f} operations a byte: {self.binds} binds it"
        if share > 1:
            return f"{said} in theory, but inputs were cached: it reaches {share:.0%} of {roof}."
        if share >= _FAR:
            return f"{said}, and it reaches {share:.0%} of {roof}."
        return (
            f"{said} at most, but it reaches {share:.0%} of {roof}: the time goes to what no roof "
            "shows, such as exponentials, waits, and the start and end of few blocks."
        )


def roofline(comparison: Comparison) -> Roofline:
    """Of a case's tuned kernel."""
    spec, shape = PrefillSpec.parse(comparison.spec), PrefillShape.parse(comparison.shape)
    batches = [np.array(lens, np.int32) for lens in comparison.valid_lens]
    return Roofline(
        statistics.fmean(useful_flops(spec, shape, each) for each in batches),
        statistics.fmean(least_bytes(spec, shape, each) for each in batches),
        comparison.tuned_gflops,
        comparison.limit_gflops,
        bandwidth_of(comparison.device),
    )


def least_bytes(spec: PrefillSpec, shape: PrefillShape, valid_lens: np.ndarray) -> int:
    """What a call must read and write if every element moves once.

    Valid positions are read. All of the output and the LSE is written, or valid rows alone, where
    the spec leaves padding untouched or has none.

    Examples
    --------
    >>> spec = PrefillSpec(2, 1, 64, "float16")
    >>> least_bytes(spec, PrefillShape(1, 8), np.array([3])) == (
    ...     3 * 2 * 64 * 2 + 2 * 3 * 64 * 2 + 8 * 2 * 64 * 2 + 8 * 2 * 2
    ... )
    True
    >>> spec = PrefillSpec(2, 1, 64, "float16", padding_output="untouched")
    >>> least_bytes(spec, PrefillShape(1, 8), np.array([3])) == 3 * (2 + 2 + 2) * 128 + 3 * 2 * 2
    True
    """
    element, sums = numpy_dtype(spec.dtype).itemsize, numpy_dtype(spec.lse_type).itemsize
    queries = int(np.clip(valid_lens, 0, shape.qo_len).sum())
    keys = int(np.clip(valid_lens, 0, shape.num_kv).sum())
    read = (queries * spec.num_qo_heads + 2 * keys * spec.num_kv_heads) * spec.head_dim * element
    untouched = not writes_zeros(spec)
    rows = (queries if untouched else shape.batch * shape.qo_len) * spec.num_qo_heads
    return read + rows * (spec.head_dim * element + sums)


def bandwidth_of(device: str) -> float | None:
    """GB/s of a device's memory, by its name.

    >>> bandwidth_of("NVIDIA A100-SXM4-80GB"), bandwidth_of("AMD EPYC")
    (2039, None)
    """
    found = [name for name in BANDWIDTHS if name in device]
    return BANDWIDTHS[max(found, key=len)] if found else None
