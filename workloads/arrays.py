"""Inputs to run a workload on, and the work that they hold."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np

from .pairs import seen_columns, valid_positions
from .shapes import PackedShape, PrefillShape
from .spec import PrefillSpec


@dataclass(frozen=True, eq=False)
class Inputs:
    """The arguments of one call, in the order in which a kernel takes them.

    Parameters
    ----------
    query : np.ndarray
        ``[batch, qo_len, num_qo_heads, head_dim]``, the spec's dtype; packed
        ``[total_q, num_qo_heads, head_dim]``.
    key, value : np.ndarray
        ``[batch, kv_len, num_kv_heads, head_dim]``, the spec's dtype; packed likewise.
    valid_lens : np.ndarray
        ``[batch]`` int32, which a kernel of packed sequences does not take.
    bias : np.ndarray, optional
        ``[num_qo_heads, qo_len + kv_len - 1]`` float32, of a spec with a bias; packed, of twice the
        longer length less 1.
    offsets : tuple of np.ndarray, optional
        ``cu_seqlens_q`` and ``cu_seqlens_kv``, ``[batch + 1]`` int32 each, if packed.
    """

    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    valid_lens: np.ndarray
    bias: np.ndarray | None = None
    offsets: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def arguments(self) -> tuple[np.ndarray, ...]:
        """What a kernel takes, in its order."""
        lengths = self.offsets or (self.valid_lens,)
        given = (self.query, self.key, self.value, *lengths, self.bias)
        return tuple(each for each in given if each is not None)


def numpy_dtype(dtype: str) -> np.dtype:
    """The NumPy dtype of a spec's ``dtype``; bfloat16 is that of ``ml_dtypes``."""
    return np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


def packed(array: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Padded positions with those first that are valid, and behind them all others.

    Parameters
    ----------
    array : np.ndarray
        ``[batch, len, ...]``.
    valid : np.ndarray
        Bool ``[batch, len]``.

    Returns
    -------
    np.ndarray
        ``[batch * len, ...]``.

    Examples
    --------
    >>> packed(np.array([[1, 2], [3, 4]]), np.array([[True, False], [True, True]])).tolist()
    [1, 3, 4, 2]
    """
    return np.concatenate([array[valid], array[~valid]])


def unpacked(array: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """The inverse of :func:`packed`."""
    padded = np.empty((*valid.shape, *array.shape[1:]), array.dtype)
    padded[valid], padded[~valid] = np.split(array, [np.count_nonzero(valid)])
    return padded


def _packed(spec: PrefillSpec, inputs: Inputs, *, room: bool) -> Inputs:
    """Padded inputs packed, with their padding behind the last sequence or without it."""
    queries, keys = (
        valid_positions(spec, inputs.valid_lens, each.shape[1])
        for each in (inputs.query, inputs.key)
    )
    query, key, value = (
        packed(array, valid)
        for array, valid in ((inputs.query, queries), (inputs.key, keys), (inputs.value, keys))
    )
    offsets = offsets_of(queries.sum(axis=1)), offsets_of(keys.sum(axis=1))
    whole = Inputs(query, key, value, inputs.valid_lens, inputs.bias, offsets)
    return whole if room else without_room(whole)


def without_room(inputs: Inputs) -> Inputs:
    """Packed inputs without what lies behind the last sequence."""
    assert inputs.offsets is not None
    rows, columns = (int(each[-1]) for each in inputs.offsets)
    cut = {"query": rows, "key": columns, "value": columns}
    return replace(inputs, **{name: getattr(inputs, name)[:end] for name, end in cut.items()})


def lengths_of(
    spec: PrefillSpec, shape: PrefillShape, valid_lens: np.ndarray
) -> tuple[np.ndarray, ...]:
    """What a kernel takes of the lengths of sequences: themselves, or where each begins."""
    if not spec.is_packed:
        return (np.asarray(valid_lens, np.int32),)
    lengths = (np.clip(valid_lens, 0, length) for length in (shape.qo_len, shape.num_kv))
    return tuple(offsets_of(each) for each in lengths)


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """Where sequences of such lengths begin that are packed, and where the last ends.

    >>> offsets_of(np.array([3, 0, 2])).tolist()
    [0, 3, 3, 5]
    """
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def poisoned(spec: PrefillSpec, inputs: Inputs, valid_lens: np.ndarray) -> Inputs:
    """Padded inputs for other lengths, whose padding holds NaN and Inf in turn.

    Equal to what :func:`make_inputs` draws for these lengths with ``poison_padding``: packed, if
    the spec is, with the padding behind the last sequence.
    """
    query, key, value = (each.copy() for each in (inputs.query, inputs.key, inputs.value))
    for array in (query, key, value):
        _poison(array, valid_lens, spec)
    found = Inputs(query, key, value, np.asarray(valid_lens, np.int32), inputs.bias)
    return _packed(spec, found, room=True) if spec.is_packed else found


def _poison(array: np.ndarray, valid_lens: np.ndarray, spec: PrefillSpec) -> None:
    """Fill the padding of ``array`` ``[batch, len, heads, head_dim]`` with NaN and Inf in turn."""
    length = array.shape[1]
    poison = np.resize(np.array([np.nan, np.inf]), length).astype(array.dtype)[:, None, None]
    for rows, valid in zip(array, valid_positions(spec, valid_lens, length), strict=True):
        rows[~valid] = poison[~valid]


def make_inputs(
    spec: PrefillSpec,
    shape: PrefillShape,
    valid_lens: np.ndarray,
    seed: int,
    *,
    poison_padding: bool = False,
) -> Inputs:
    """Draw query, key, value and a spec's bias from the unit normal distribution.

    Parameters
    ----------
    spec, shape
        The workload.
    valid_lens : np.ndarray
        ``[batch]`` whole numbers, passed on as they are.
    seed : int
        The same seed gives the same inputs.
    poison_padding : bool
        Let the padding of query, key and value hold NaN and Inf in turn: a kernel that reads
        it shows. That of packed sequences lies behind the last one, where without it is nothing.
    """
    dtype = numpy_dtype(spec.dtype)

    def draw(number: int, length: int, heads: int) -> np.ndarray:
        array = np.empty((shape.batch, length, heads, spec.head_dim), dtype)

        def fill(sequence: int) -> None:
            rng = np.random.default_rng([seed, number, sequence])
            array[sequence] = rng.standard_normal(array.shape[1:], dtype=np.float32)

        with ThreadPoolExecutor() as pool:  # NumPy draws and casts side by side
            list(pool.map(fill, range(shape.batch)))
        if poison_padding:
            _poison(array, valid_lens, spec)
        return array

    drawn = Inputs(
        query=draw(0, shape.qo_len, spec.num_qo_heads),
        key=draw(1, shape.num_kv, spec.num_kv_heads),
        value=draw(2, shape.num_kv, spec.num_kv_heads),
        valid_lens=np.asarray(valid_lens, np.int32),
        bias=bias_of(spec, shape, seed),
    )
    return _packed(spec, drawn, room=poison_padding) if spec.is_packed else drawn


def bias_of(spec: PrefillSpec, shape: PrefillShape, seed: int) -> np.ndarray | None:
    """The bias that :func:`make_inputs` draws, of a spec that has one."""
    if spec.bias is None:
        return None
    rng = np.random.default_rng([seed, 3])
    width = (PackedShape.filled(shape) if spec.is_packed else shape).bias_width
    return rng.standard_normal((spec.num_qo_heads, width), dtype=np.float32)


def useful_flops(spec: PrefillSpec, shape: PrefillShape, valid_lens: np.ndarray) -> int:
    """Floating-point operations of the two products on the pairs that the mask keeps.

    Parameters
    ----------
    spec, shape
        The workload.
    valid_lens : np.ndarray
        ``[batch]`` whole numbers; out of range they are clamped, as in the kernel.

    Returns
    -------
    int
        ``4 * head_dim * num_qo_heads`` a kept (row, column) pair: a multiplication and an addition
        an element, for query times key and again for probability times value.

    Examples
    --------
    >>> spec = PrefillSpec(1, 1, 64, mask_mode="causal_padded_left")
    >>> useful_flops(spec, PrefillShape(1, 8), np.array([3])) // (4 * 64)  # 1 + 2 + 3 pairs
    6
    """
    begin, end = seen_columns(spec, valid_lens, shape.qo_len, shape.num_kv)
    return 4 * spec.head_dim * spec.num_qo_heads * int((end - begin).sum())
