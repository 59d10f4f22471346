"""Whether what a record says of itself can be true."""

from __future__ import annotations

import functools
import math
import re

from ..workloads.errors import PrefilltuneError
from ..workloads.lengths import (
    FixedLengths,
    FullLengths,
    UniformLengths,
    names_a_file,
    parse_lengths,
)
from ..workloads.shapes import PrefillShape
from ..workloads.spec import PrefillSpec
from .entry import Entry, Head
from .target_key import TargetKey

CPU_KINDS = ("llvm", "c")
# Far above anything that is sold, so that a record beyond them is wrong and not only fast.
FLOPS_PER_CPU_THREAD = 1e14
FLOPS_PER_GPU = 1e16
MAX_THREADS = 4096
MAX_SIZE = 2**31 - 1  # TVM's loops count in int32
MAX_COUNTED = 1 << 24  # rows whose pairs are counted one by one
# The quartiles of a few times are extrapolated beyond the smallest and the largest.
SPREAD_PER_RANGE = 2.0


def doubt(entry: Entry, key: TargetKey) -> str:
    """Why a record cannot be one of the machine ``key``; empty if it can.

    Examples are a target of another kind, sizes that no array has, and times that no machine
    reaches: the pairs that the mask keeps at 100 TFLOP/s a CPU thread or 10 PFLOP/s a GPU.
    """
    kind = (entry.target_json or {}).get("kind", key.kind)
    if kind != key.kind:
        return f"its target is of kind {kind!r}; records here are of kind {key.kind!r}"
    if reason := strange_workload(entry.head):
        return reason
    fastest = min(*entry.run_secs, entry.provenance.median_secs)
    limit = shortest_secs(entry, key)
    if fastest < limit:
        return f"it claims {fastest:g} s; no machine needs less than {limit:g} s for this work"
    return ""


def contradiction(entry: Entry) -> str:
    """Why the times and their summary cannot be of one measurement; empty if they can.

    Not part of :func:`doubt`: a crash while a record is measured again may leave the times of
    one measurement next to the summary of another, and the kernel is as good as it was.
    """
    low, high = min(entry.run_secs), max(entry.run_secs)
    median, spread = entry.provenance.median_secs, entry.provenance.spread_secs
    if not (low <= median <= high or math.isclose(median, low) or math.isclose(median, high)):
        return f"its median of {median:g} s is outside its times of {low:g} .. {high:g} s"
    if spread > SPREAD_PER_RANGE * (high - low) and not math.isclose(low + spread, low):
        return f"its spread of {spread:g} s exceeds its times of {low:g} .. {high:g} s"
    return ""


def strange_workload(head: Head) -> str:
    """Why the shape of a record is none, or no machine's; empty if it may be.

    Of a spec nothing is asked: another version may have more to choose.
    """
    return _strange(head.spec, head.shape)


@functools.cache
def _strange(spec: str, shape: str) -> str:
    sizes = re.findall(r"\d+", shape)
    if not all(len(size) <= len(str(MAX_SIZE)) and int(size) <= MAX_SIZE for size in sizes):
        return f"shape {shape[:80]!r} has a size above {MAX_SIZE}"
    try:
        PrefillShape.parse(shape)
    except PrefilltuneError as error:
        return str(error)
    return ""


def shortest_secs(entry: Entry, key: TargetKey) -> float:
    """Seconds that no machine beats; 0 where the work is not known."""
    origin = entry.provenance
    flops = _least_flops(origin.spec, origin.shape, origin.lens)
    if key.kind not in CPU_KINDS:
        return flops / FLOPS_PER_GPU
    threads = origin.device.get("threads")
    if not isinstance(threads, int) or not 1 <= threads <= MAX_THREADS:
        threads = MAX_THREADS
    return flops / (FLOPS_PER_CPU_THREAD * threads)


@functools.cache
def _least_flops(spec: str, shape: str, lens: str) -> int:
    """Useful work on the shortest sequences that ``lens`` allows; 0 for unknown texts."""
    from ..workloads import useful_flops

    try:
        lengths = None if names_a_file(lens) else parse_lengths(lens)
        sizes = PrefillShape.parse(shape)
        longest = max(sizes.qo_len, sizes.num_kv)
        if isinstance(lengths, UniformLengths):
            shortest = FixedLengths((max(1, math.ceil(lengths.low * longest)),))
        elif isinstance(lengths, FullLengths | FixedLengths):
            shortest = lengths
        else:
            return 0
        # Where all sequences of a batch are equal, the work of one is counted and multiplied: a
        # record may claim an absurdly large batch.
        batch = len(shortest.lengths) if isinstance(shortest, FixedLengths) else 1
        batch = min(batch, sizes.batch)
        valid = shortest.sample(batch, longest, 0)
        one = PrefillShape(batch, sizes.qo_len, sizes.num_kv)
        if batch * longest > MAX_COUNTED:
            return 0
        return useful_flops(PrefillSpec.parse(spec), one, valid) * (sizes.batch // batch)
    except (PrefilltuneError, ValueError, OverflowError):
        return 0
