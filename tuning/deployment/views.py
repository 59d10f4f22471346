"""Query, key and value as views: only their last dimension is dense.

Such as parts of what one projection made of all three, or tensors whose heads come before their
rows. Where a kernel reads them through tensor maps alone, the host puts their strides into the
maps, and its code stays what it is. Other kernels are found on dense buffers and are fastest on
those: beside them stands one more of the same schedule, which learns the strides at the call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

from ...workloads import INDEXABLE
from ..building.alignment import address_of, alignment_of
from ..pipeline.steps import sequence
from ..pipeline.tensor_maps import makes_map, map_of_view, mapped
from ..requiring import require

#: May be views.
_INPUTS = frozenset({"q", "k", "v"})
_RESULTS = frozenset({"output", "lse"})


def with_strides(buffer: Any) -> Any:
    """A parameter as one that may be a view, if it is a query, key or value."""
    from tvm import tirx

    if buffer.name not in _INPUTS:
        return buffer
    # In 32 bits, as TVM learns sizes; of 2^31 elements and more are negative, which checks refuse.
    axes = range(len(buffer.shape) - 1)
    apart = [tirx.Var(f"{buffer.name}_stride{axis}", "int32") for axis in axes]
    return tirx.decl_buffer(
        buffer.shape, str(buffer.dtype), buffer.name, strides=[*apart, tirx.const(1, "int32")],
        data_alignment=buffer.data_alignment,
    )  # fmt: skip


def are_dense(buffers: Sequence[Any]) -> Any:
    """Whether none of the parameters is a view, as an expression."""
    from tvm import tirx

    conditions = []
    for buffer in _views(buffers):
        axes = range(len(buffer.shape) - 1)
        conditions += [tirx.EQ(_stride(buffer, axis), _dense(buffer, axis)) for axis in axes]
    return tirx.all(*conditions)


def view_checks(buffers: Sequence[Any], kind: str) -> list[Any]:
    """Statements, for the host, that refuse views that code cannot read, or that it would change.

    Those are broadcast or run backwards, have elements that 32 bits do not number, or rows that
    begin where a vector may not; or share memory with a result.
    """
    views = _views(buffers)
    results = [each for each in buffers if each.name in _RESULTS]
    return [
        *(check for each in views for check in _stride_checks(each, kind)),
        *(_apart(result, each) for result, each in product(results, views)),
    ]


def reads_through_maps(kernel: Any) -> bool:
    """Whether all that a scheduled kernel reads of query, key and value comes through tensor maps.

    Its code knows nothing of strides then: they are in the maps.
    """
    from tvm import ir, s_tir, tirx
    from tvm_ffi import WalkResult, structural_walk

    read = []

    def declared(_: Any) -> Any:  # what a block says that it reads
        return WalkResult.SKIP

    of_views = [
        (s_tir.MatchBufferRegion, lambda part: read.append(part.source.source)),
        (ir.TensorRegion, declared),
        (tirx.Var, read.append),
    ]
    for step in _steps(kernel.body):
        if not makes_map(step):
            structural_walk(step, of_views, order="pre")
    return not any(one.same_as(other) for one, other in product(_views(kernel.params), read))


def maps_of_views(body: Any, buffers: Sequence[Any]) -> list[Any]:
    """The statements of a kernel, whose tensor maps have the strides of what may be views."""
    of_name = {each.name: each for each in buffers if each.strides}

    def changed(stmt: Any) -> Any:
        view = of_name.get(mapped(stmt)) if makes_map(stmt) else None
        return stmt if view is None else _map_of(view, stmt)

    return [changed(each) for each in _steps(body)]


def on_views(
    parameters: Sequence[Any], body: Sequence[Any], buffers: Sequence[Any], kind: str
) -> Any:
    """The statements of a kernel, whose parameters, found to be dense, are views of others.

    Parameters
    ----------
    parameters, body
        Of the kernel.
    buffers : Sequence[Buffer]
        In the order of the parameters, of :func:`with_strides`.
    kind : str
        Target kind.
    """
    from tvm import ir, s_tir, tirx

    zero = tirx.const(0, "int32")
    steps: list[Any] = []
    matched = []
    for own, whole in zip(parameters, buffers, strict=True):
        if not whole.strides:
            steps.append(tirx.DeclBuffer(own, data=whole.data))
            continue
        # As multiples of a vector, without which code for a GPU reads element by element.
        vector = _vector(whole, kind)
        apart = [
            tirx.Var(f"{whole.name}_apart{axis}", "int32") for axis in range(len(own.shape) - 1)
        ]
        for count, stride in zip(apart, whole.strides, strict=False):
            steps.append(tirx.Bind(count, tirx.FloorDiv(stride, tirx.const(vector, "int32"))))
        strides = [*(count * vector for count in apart), tirx.const(1, "int32")]
        # Aligned as the kernel's is, which a match must be; code goes by the parameter.
        view = tirx.decl_buffer(
            own.shape, str(own.dtype), own.name, strides=strides,
            data_alignment=own.data_alignment,
        )  # fmt: skip
        steps.append(tirx.DeclBuffer(view, data=whole.data))
        region = tirx.BufferRegion(view, [ir.Range(zero, extent) for extent in own.shape])
        matched.append(s_tir.MatchBufferRegion(own, region))
    reads = [each.source for each in matched]
    block = s_tir.SBlock([], reads, [], "views", sequence(body), match_buffers=matched)
    return tirx.SeqStmt([*steps, s_tir.SBlockRealize([], True, block)])


def _steps(body: Any) -> Sequence[Any]:
    """Statements of a kernel's body, those first that make its maps."""
    from tvm import tirx

    return list(body.seq) if isinstance(body, tirx.SeqStmt) else [body]


def _views(buffers: Sequence[Any]) -> list[Any]:
    return [each for each in buffers if each.name in _INPUTS]


def _map_of(view: Any, stmt: Any) -> Any:
    """Make a tensor map of a view, in the place of one of a dense tensor."""
    from tvm import DataType

    size = _number(DataType(str(view.dtype)).itemsize)
    # Heads, rows and batches.
    *others, row, head = (_stride(view, axis) * size for axis in range(len(view.shape) - 1))
    return map_of_view(stmt, view, [head, row, *others])


def _stride_checks(buffer: Any, kind: str) -> list[Any]:
    from tvm import tirx

    strides = [_stride(buffer, axis) for axis in range(len(buffer.shape) - 1)]
    forwards = [each > _number(0) for each in strides]
    checks = [
        require(
            tirx.any(_is_empty(buffer), tirx.all(*forwards, _span(buffer) < _number(INDEXABLE))),
            f"{buffer.name} must run forwards over less than {INDEXABLE} (2^31) elements, and this "
            "view repeats elements, runs backwards, or spans more than kernels can number: copy "
            "it, with .contiguous() in PyTorch or .copy() in NumPy",
        ),
    ]
    vector = _vector(buffer, kind)
    if vector > 1:
        even = [tirx.EQ(tirx.FloorMod(each, _number(vector)), _number(0)) for each in strides]
        checks.append(
            require(
                tirx.all(*even),
                f"the strides of {buffer.name} must be multiples of {vector} elements, and "
                "those of this view are not: copy it, with .contiguous() in PyTorch",
            )
        )
    return checks


def _vector(buffer: Any, kind: str) -> int:
    """Elements that code for a GPU reads at once: rows of dense tensors begin at multiples."""
    from tvm import DataType

    itemsize = DataType(str(buffer.dtype)).itemsize
    return math.gcd(alignment_of(str(buffer.dtype), kind) // itemsize, int(buffer.shape[-1]))


def _apart(result: Any, view: Any) -> Any:
    """A statement that refuses a result in the memory of an input."""
    from tvm import tirx

    begin, its_begin = address_of(result), address_of(view)
    end, its_end = (_end(each) for each in (result, view))
    return require(
        tirx.any(end <= its_begin, its_end <= begin),
        f"{result.name} shares memory with {view.name}, which others still read while it is "
        f"written: pass {result.name} in memory of its own",
    )


def _end(buffer: Any) -> Any:
    from tvm import DataType

    return address_of(buffer) + _span(buffer) * _number(DataType(str(buffer.dtype)).itemsize)


def _span(buffer: Any) -> Any:
    """How many elements lie from the first to the last, those between that are others' too."""
    from tvm import tirx

    span = _number(1)
    for axis, extent in enumerate(buffer.shape):
        span += (tirx.Cast("int64", extent) - _number(1)) * _stride(buffer, axis)
    return tirx.Select(_is_empty(buffer), _number(0), span)


def _is_empty(buffer: Any) -> Any:
    from tvm import tirx

    return tirx.any(*(each <= 0 for each in buffer.shape))


def _stride(buffer: Any, axis: int) -> Any:
    """Of a dimension: that of a dense tensor where there is a single element, of any stride."""
    from tvm import tirx

    dense = _dense(buffer, axis)
    if not buffer.strides:
        return dense
    own = tirx.Cast("int64", buffer.strides[axis])
    return tirx.Select(buffer.shape[axis] <= 1, dense, own)


def _dense(buffer: Any, axis: int) -> Any:
    from tvm import tirx

    later = (tirx.max(tirx.Cast("int64", each), _number(1)) for each in buffer.shape[axis + 1 :])
    return math.prod(later, start=_number(1))


def _number(value: int) -> Any:
    from tvm import tirx

    return tirx.const(value, "int64")
