"""Tensor maps by which the copy engine ends with a sequence, wherever that ends.

A copy writes zeros in the place of what lies outside the tensor that a map describes, but where a
sequence ends within a tensor, the map knows nothing of it. So a map says of each row that it lies
at the sum of two coordinates: one of all rows, and one within as many as a tile has. A copy of the
``some`` rows from ``row`` on begins at ``row + some`` of the one and at ``tile - some`` of the
other, so that all further rows lie outside of that. The map begins a tile's rows before the tensor,
which makes the sum right (as Triton's ``tools/ragged_tma.py`` does when it stores).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_ENCODE = "runtime.cuTensorMapEncodeTiled"  # of TVM
_L2_PROMOTION = 2  # CU_TENSOR_MAP_L2_PROMOTION_L2_128B

# Of what is called, behind its name: the map, type and address of the tensor.
_MAP, _ADDRESS = 0, 3


def make_map(
    tensor_map: Any, source: Any, strides: Sequence[Any], tile: Sequence[int], swizzle: Any
) -> Any:
    """A statement of the host that makes a map of ``[batch, length, heads, columns]``.

    Parameters
    ----------
    tensor_map : tirx.Var
        Memory for it.
    source : tirx.Buffer
        Of that shape, or of packed sequences ``[length, heads, columns]``.
    strides : sequence of PrimExpr
        Bytes between two heads, rows and, unless sequences are packed, batches; int64.
    tile : sequence of int
        How many columns, heads and rows a copy is of.
    swizzle : int
        A ``CUtensorMapSwizzle``.
    """
    from tvm import tirx

    *batch, length, heads, columns = source.shape
    *_, of_rows = tile
    head, row, *others = strides
    extents = [columns, heads, of_rows, length + 1, *batch]
    ones = [1 for _ in extents]
    begin = tirx.handle_add_byte_offset(source.data, row * -of_rows)
    box = [*tile, *ones[3:]]
    return tirx.Evaluate(
        tirx.call_packed(
            _ENCODE, tensor_map, str(source.dtype), len(extents), begin,
            *extents, head, row, row, *others, *box, *ones, 0, swizzle, _L2_PROMOTION, 0,
        )
    )  # fmt: skip


def makes_map(stmt: Any) -> bool:
    """Whether a statement makes a tensor map."""
    from tvm import tirx
    from tvm.ir import Call, StringImm

    if not (isinstance(stmt, tirx.Evaluate) and isinstance(stmt.value, Call)):
        return False
    name = next(iter(stmt.value.args), None)
    return isinstance(name, StringImm) and name.value == _ENCODE


def mapped(stmt: Any) -> str:
    """Name of the tensor that a statement makes a map of."""
    (data,) = _arguments(stmt)[_ADDRESS].args[0].args
    return str(data.name)


def map_of_view(stmt: Any, view: Any, strides: Sequence[Any]) -> Any:
    """A statement that makes the map of a dense tensor, for a view that has other strides.

    Parameters
    ----------
    strides : sequence of PrimExpr
        As those of :func:`make_map`.
    """
    arguments = _arguments(stmt)
    axes = len(view.shape) + 1
    *_, swizzle, _, _ = arguments
    begin = _ADDRESS + 1 + axes + axes - 1  # behind the address are extents and strides
    tile = [int(each) for each in arguments[begin : begin + 3]]
    return make_map(arguments[_MAP], view, strides, tile, swizzle)


def _arguments(stmt: Any) -> Sequence[Any]:
    """Of what is called, behind its name."""
    _, *arguments = stmt.value.args
    return arguments
