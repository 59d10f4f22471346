"""A Triton kernel that writes zeros into padding, and touches nothing else."""

from __future__ import annotations

from typing import Any

import triton  # pyright: ignore[reportMissingImports]  (comes with PyTorch for GPUs)
import triton.language as tl  # pyright: ignore[reportMissingImports]

_ELEMENTS = 8192  # of a block: 16 KB of 16 bits


def fill_padding(output: Any, valid_lens: Any, pads_left: bool) -> None:
    """Write zeros into the padding of ``output``.

    Parameters
    ----------
    output : torch.Tensor
        ``[batch, length, heads, head_dim]``; elements of a head lie side by side.
    valid_lens : torch.Tensor
        ``[batch]`` int32, read on the device: a graph holds for other lengths too.
    pads_left : bool
        Whether padding comes first.
    """
    batch, length, heads, head_dim = output.shape
    columns = triton.next_power_of_2(head_dim)
    rows = max(1, _ELEMENTS // columns)
    batch_stride, row_stride, head_stride, element_stride = output.stride()
    if element_stride != 1:
        raise ValueError(
            f"elements of a head lie {element_stride} apart, and zeros go side by side"
        )
    constants: dict[str, Any] = {
        "PADS_LEFT": pads_left, "HEAD_DIM": head_dim, "COLUMNS": columns, "ROWS": rows,
    }  # fmt: skip
    kernel: Any = _fill  # Triton's, whose grid stands in brackets
    kernel[triton.cdiv(length, rows), heads, batch](
        output, valid_lens, batch_stride, row_stride, head_stride, length, **constants
    )


@triton.jit
def _fill(
    output, valid_lens, batch_stride, row_stride, head_stride, length,
    PADS_LEFT: tl.constexpr, HEAD_DIM: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(2).to(tl.int64)
    valid = tl.minimum(tl.maximum(tl.load(valid_lens + batch), 0), length)
    begin, end = valid, length
    if PADS_LEFT:
        begin, end = valid - valid, length - valid
    first = begin + tl.program_id(0) * ROWS
    if first < end:
        row = (first + tl.arange(0, ROWS)).to(tl.int64)[:, None]
        column = tl.arange(0, COLUMNS)[None, :]
        head = output + batch * batch_stride + tl.program_id(1) * head_stride
        place = head + row * row_stride + column
        tl.store(place, 0.0, mask=(row < end) & (column < HEAD_DIM))
