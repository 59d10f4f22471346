"""Is a result right, where float64 attention on one core is too slow for all of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np

from ...workloads import (
    Inputs,
    PrefillShape,
    PrefillSpec,
    empty_lse,
    max_error,
    numpy_dtype,
    reference_attention,
    useful_flops,
)
from ...workloads.arrays import unpacked
from ...workloads.pairs import seen_columns, written_rows
from ...workloads.reference import sequence_reference

# Of the reference, in floating-point operations: about a second of one core.
_BUDGET = 1e10


@dataclass(frozen=True, eq=False)
class Expected:
    """What a kernel must compute, in full for some heads.

    Parameters
    ----------
    keyed : np.ndarray
        Which rows keep a key, bool ``[batch, qo_len]``.
    written : np.ndarray
        Which rows are written, bool ``[batch, qo_len]``: those that keep no key with 0, and their
        LSE with ``empty``; the others stay as :func:`poisoned_results` has them.
    empty : float
        LSE of a row without keys.
    heads : tuple[tuple[int, int], ...]
        Sequence and query head of each reference.
    outputs : tuple[np.ndarray, ...]
        ``[qo_len, head_dim]`` float64, one for each of ``heads``; of a packed sequence its own
        rows alone.
    lses : tuple[np.ndarray, ...]
        ``[qo_len]`` float64.
    packed : bool
        Whether results are; their padding is not written.
    """

    keyed: np.ndarray
    written: np.ndarray
    empty: float
    heads: tuple[tuple[int, int], ...]
    outputs: tuple[np.ndarray, ...]
    lses: tuple[np.ndarray, ...]
    packed: bool = False

    def error(self, output: np.ndarray, lse: np.ndarray) -> float:
        """Largest error of a result; infinite if any of it is not finite or padding is not right.

        Parameters
        ----------
        output : np.ndarray
            ``[batch, qo_len, num_qo_heads, head_dim]``, any float dtype; packed
            ``[batch * qo_len, num_qo_heads, head_dim]``, of which what lies behind the last
            sequence is to be as :func:`poisoned_results` has it.
        lse : np.ndarray
            ``[batch, qo_len, num_qo_heads]``, packed likewise.
        """
        if self.packed:
            output, lse = (unpacked(each, self.written) for each in (output, lse))
        with ThreadPoolExecutor() as pool:  # NumPy's loops run side by side
            sound = partial(_is_sound, self.empty)
            if not all(pool.map(sound, output, lse, self.keyed, self.written)):
                return math.inf
        return max(
            self._error_of_head(output[b, :, h], lse[b, :, h], self.written[b], *expected)
            for (b, h), *expected in zip(self.heads, self.outputs, self.lses, strict=True)
        )

    @staticmethod
    def _error_of_head(
        output: np.ndarray,
        lse: np.ndarray,
        written: np.ndarray,
        expected: np.ndarray,
        expected_lse: np.ndarray,
    ) -> float:
        # Of packed sequences, what is expected has no row more.
        rows = written[: len(expected)]
        return max(
            max_error(output[written], expected[rows]),
            max_error(lse[written], expected_lse[rows]),
        )


def result_rows(spec: PrefillSpec, shape: PrefillShape) -> tuple[int, ...]:
    """The shape of an LSE."""
    positions = (shape.batch, shape.qo_len)
    return (*((math.prod(positions),) if spec.is_packed else positions), spec.num_qo_heads)


def poisoned_results(spec: PrefillSpec, shape: PrefillShape) -> tuple[np.ndarray, np.ndarray]:
    """Output and LSE full of NaN: what a kernel leaves unwritten is seen, and what it writes."""
    rows = result_rows(spec, shape)
    output = np.full((*rows, spec.head_dim), np.nan, numpy_dtype(spec.dtype))
    return output, np.full(rows, np.nan, numpy_dtype(spec.lse_type))


def _is_sound(
    empty: float, output: np.ndarray, lse: np.ndarray, keyed: np.ndarray, written: np.ndarray
) -> bool:
    """Whether all of a sequence's result is finite, and its padding as it is to be."""
    if not written.all():
        untouched = ~written
        if not (_is_untouched(output[untouched]) and _is_untouched(lse[untouched])):
            return False
        output, lse, keyed = output[written], lse[written], keyed[written]
    padding = ~keyed
    return bool(
        _is_finite(output)
        and _is_finite(lse)
        and not (_bits(output)[padding] << 1).any()  # a zero may have a sign
        and (lse[padding] == lse.dtype.type(empty)).all()
    )


def _is_untouched(array: np.ndarray) -> bool:
    """Whether it is as :func:`poisoned_results` has it, bit for bit."""
    return bool((_bits(array) == _bits(np.array([np.nan], array.dtype))[0]).all())


def _is_finite(array: np.ndarray) -> bool:
    """Whether no element has the exponent of Inf and NaN: NumPy asks 16-bit floats one by one."""
    bits, infinity = _bits(array), _bits(np.array([np.inf], array.dtype))[0]
    return not (bits & infinity == infinity).any()


def _bits(array: np.ndarray) -> np.ndarray:
    return array.view(f"u{array.dtype.itemsize}")


def expect(
    spec: PrefillSpec, shape: PrefillShape, inputs: Inputs, budget: float = _BUDGET
) -> Expected:
    """Compute the reference for as many heads as a budget of operations allows.

    Parameters
    ----------
    inputs : Inputs
        Of the whole batch.
    budget : float
        Floating-point operations; the first and the last head and every different length are
        covered even so.
    """
    heads = checked_heads(spec, shape, inputs.valid_lens, budget)
    single = dataclasses.replace(spec, num_qo_heads=1, num_kv_heads=1)

    def of_head(head: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        b, h = head
        group = h // spec.group_size
        bias = None if inputs.bias is None else inputs.bias[h : h + 1]
        if inputs.offsets is not None:
            rows, columns = (slice(*each[b : b + 2]) for each in inputs.offsets)
            found = sequence_reference(
                single,
                inputs.query[rows, h : h + 1],
                inputs.key[columns, group : group + 1],
                inputs.value[columns, group : group + 1],
                bias,
            )
            return found[0][:, 0], found[1][:, 0]
        output, lse = reference_attention(
            single,
            inputs.query[b : b + 1, :, h : h + 1],
            inputs.key[b : b + 1, :, group : group + 1],
            inputs.value[b : b + 1, :, group : group + 1],
            inputs.valid_lens[b : b + 1],
            bias,
        )
        return output[0, :, 0], lse[0, :, 0]

    with ThreadPoolExecutor() as pool:  # NumPy's loops run side by side
        outputs, lses = zip(*pool.map(of_head, heads), strict=True)
    begin, end = seen_columns(spec, inputs.valid_lens, shape.qo_len, shape.num_kv)
    written = written_rows(spec, inputs.valid_lens, shape.qo_len)
    empty = empty_lse(spec.lse_type)
    return Expected(begin < end, written, empty, tuple(heads), outputs, lses, spec.is_packed)


def checked_heads(
    spec: PrefillSpec, shape: PrefillShape, valid_lens: np.ndarray, budget: float
) -> list[tuple[int, int]]:
    """Sequences and query heads to check, the indispensable first.

    Indispensable are the first and the last head of the first and the last sequence, and one head
    for every different length; the others follow in strides, so that each sequence and each head
    has its turn early.

    Examples
    --------
    >>> spec, lens = PrefillSpec(4, 2, 64), np.array([8, 8, 3])
    >>> checked_heads(spec, PrefillShape(3, 8), lens, budget=0)
    [(0, 0), (2, 3)]
    >>> len(checked_heads(spec, PrefillShape(3, 8), lens, budget=1e9))
    12
    """
    batch, num_heads = len(valid_lens), spec.num_qo_heads
    covered = {int(valid_lens[0]), int(valid_lens[-1])}
    needed = [(0, 0), (batch - 1, num_heads - 1)]
    for b, length in enumerate(valid_lens):
        if int(length) not in covered:
            covered.add(int(length))
            needed.append((b, b % num_heads))
    strided = [(b, (h + b) % num_heads) for h, b in product(range(num_heads), range(batch))]
    single = dataclasses.replace(spec, num_qo_heads=1, num_kv_heads=1)
    costs = [useful_flops(single, shape, np.array([length])) for length in valid_lens]
    needed = list(dict.fromkeys(needed))
    return needed + _within(budget - sum(costs[b] for b, _ in needed), strided, needed, costs)


def _within(
    budget: float,
    candidates: Sequence[tuple[int, int]],
    taken: Sequence[tuple[int, int]],
    costs: Sequence[int],
) -> list[tuple[int, int]]:
    chosen = []
    for b, h in candidates:
        if (b, h) in taken:
            continue
        budget -= costs[b]
        if budget < 0:
            break
        chosen.append((b, h))
    return chosen
