"""Where the tensors of a kernel may begin: what its code takes for granted, checked at the call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..backends import backend_of
from ..requiring import require

#: May begin anywhere.
_SCALARS = frozenset({"valid_lens", "cu_seqlens_q", "cu_seqlens_kv"})

#: Read one by one, so that any element may be the first. Which of them a row needs for a tile of
#: columns depends on the row: no vector of them begins where vectors may, however the tensor does.
_READ_BY_ELEMENT = frozenset({"bias"})


def refuse_misaligned(kernel: Any, kind: str) -> Any:
    """Let a kernel take tensors wherever its target can read them, and raise ValueError elsewhere.

    A schedule is found on buffers that begin where TVM's own allocations do, at 64 bytes, which its
    code for CPUs takes for granted. Here the parameters become views of others that begin anywhere;
    what the kernel allocates stays as it is. Code for GPUs takes nothing from the buffer.

    Parameters
    ----------
    kernel : tvm.tirx.PrimFunc
        Scheduled; its parameters are buffers.
    kind : str
        Target kind.
    """
    from tvm import s_tir, tirx

    parameters, views = kernel.params, []
    if backend_of(kind).is_cpu:
        parameters = [parameter(own.shape, own.dtype, own.name, kind) for own in kernel.params]
        views = [
            tirx.DeclBuffer(own, data=whole.data)
            for own, whole in zip(kernel.params, parameters, strict=True)
        ]
    body = tirx.SeqStmt([*alignment_checks(parameters, kind), *views, kernel.body])
    root = s_tir.SBlock([], [], [], "root", body)
    realized = s_tir.SBlockRealize([], True, root)
    return tirx.PrimFunc(parameters, realized, kernel.ret_type, kernel.attrs)


def parameter(shape: Sequence[Any], dtype: Any, name: str, kind: str) -> Any:
    """A buffer of which code takes no more for granted than the target needs."""
    from tvm import tirx

    alignment = alignment_of(str(dtype), kind) if backend_of(kind).is_cpu else -1  # TVM's usual
    return tirx.decl_buffer(shape, str(dtype), name, data_alignment=alignment)


def alignment_of(dtype: str, kind: str) -> int:
    """Bytes that the begin of a tensor must be a multiple of: of its element, at least.

    Of query, key, value, output and LSE; a bias may begin at any of its elements.
    """
    from tvm import DataType

    return max(backend_of(kind).alignment, DataType(dtype).itemsize)


def _alignment_of(buffer: Any, kind: str) -> int:
    from tvm import DataType

    if buffer.name in _READ_BY_ELEMENT:
        return DataType(str(buffer.dtype)).itemsize
    return alignment_of(str(buffer.dtype), kind)


def alignment_checks(buffers: Sequence[Any], kind: str) -> list[Any]:
    """Statements, for the host, that refuse buffers that begin where code cannot read them."""
    checked = [buffer for buffer in buffers if buffer.name not in _SCALARS]
    alignments = [_alignment_of(buffer, kind) for buffer in checked]
    return [
        require(
            _begins_at_multiple(buffer, alignment),
            f"{buffer.name} must begin at a multiple of {alignment} bytes, and this view does not: "
            "copy it into memory of its own, with .clone() in PyTorch or .copy() in NumPy "
            "(.contiguous() would leave it where it is)",
        )
        for buffer, alignment in zip(checked, alignments, strict=True)
    ]


def address_of(buffer: Any) -> Any:
    """Where a buffer begins, as a number, for the host."""
    from tvm import tirx

    # `reinterpret` is refused by FP8StorageLegalize, and the C library has no simpler function that
    # takes a pointer and returns a number. No address is negative.
    return tirx.call_extern("int64", "llabs", buffer.data)


def _begins_at_multiple(buffer: Any, alignment: int) -> Any:
    from tvm import tirx

    rest = tirx.FloorMod(address_of(buffer), tirx.const(alignment, "int64"))
    return tirx.EQ(rest, tirx.const(0, "int64"))
