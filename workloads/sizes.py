"""Which sizes a kernel of a spec has, and how large its tensors may be."""

from __future__ import annotations

from .errors import InvalidShapeError
from .shapes import PackedShape, PrefillShape, SymbolicShape, squared
from .spec import PrefillSpec

#: Elements that no tensor of a workload reaches: kernels number them with 32 bits.
INDEXABLE = 1 << 31


def sizes_at_call(spec: PrefillSpec) -> SymbolicShape | PackedShape:
    """New variables for the sizes that a kernel learns at each call."""
    return PackedShape.fresh() if spec.is_packed else SymbolicShape.fresh()


def measured_sizes(spec: PrefillSpec, shape: PrefillShape) -> PrefillShape | PackedShape:
    """Sizes of the kernels that are timed on a shape: itself.

    Of packed sequences, which have another total in each batch, variables, as of the kernel that
    serves the shape at a call.
    """
    if not spec.is_packed:
        return shape
    sizes = PackedShape.fresh()
    as_many = shape.qo_len == shape.num_kv
    return squared(sizes) if as_many and has_kernels_of_squares(spec) else sizes


def has_kernels_of_squares(spec: PrefillSpec) -> bool:
    """Whether as many keys as queries are worth kernels of their own, besides those for every size.

    They are where a mask goes by the distance of a column from a row: it is asked of each.

    >>> [has_kernels_of_squares(PrefillSpec(12, 12, 64, window=each)) for each in (None, (None, 0))]
    [False, True]
    """
    return spec.window != (None, None)


def numbers_all_scores(spec: PrefillSpec, shape: PrefillShape) -> bool:
    """Whether a kernel could hold the scores of all pairs, for indices of 32 bits.

    One that is scheduled stage by stage does.

    >>> spec = PrefillSpec(12, 12, 64)
    >>> [numbers_all_scores(spec, PrefillShape(16, length)) for length in (2048, 4096)]
    [True, False]
    """
    return shape.batch * spec.num_qo_heads * shape.qo_len * shape.num_kv < INDEXABLE


def require_indexable(spec: PrefillSpec, shape: PrefillShape | SymbolicShape | PackedShape) -> None:
    """Refuse tensors whose elements 32-bit indices, which kernels compute with, cannot number.

    Of sizes that are learned at a call, the call must see to it.

    Raises
    ------
    InvalidShapeError
        If a tensor of the workload has :data:`INDEXABLE` elements or more.
    """
    if not isinstance(shape, PrefillShape):
        return
    positions = (PackedShape.filled(shape) if spec.is_packed else shape).bias_width
    sizes = [
        ("query", shape.batch * shape.qo_len * spec.num_qo_heads * spec.head_dim, "batch"),
        ("key", shape.batch * shape.num_kv * spec.num_kv_heads * spec.head_dim, "batch"),
        *([("bias", spec.num_qo_heads * positions, "queries or the keys")] if spec.bias else []),
    ]
    for name, size, parts in sizes:
        if size >= INDEXABLE:
            raise InvalidShapeError(
                f"{name} of {spec} at {shape} has {size} elements; kernels number fewer than "
                f"{INDEXABLE} (2^31): split the {parts}"
            )
