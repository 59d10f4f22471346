"""What kernels take for granted of where their tensors begin, checked at the call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..backends import backend_of

#: Read one by one.
_SCALARS = frozenset({"valid_lens"})


def refuse_misaligned(kernel: Any, kind: str) -> Any:
    """Let a kernel raise ValueError at the call, where a misaligned load would end the process.

    Parameters
    ----------
    kernel : tvm.tirx.PrimFunc
        Scheduled; its parameters are buffers.
    kind : str
        Target kind.
    """
    from tvm import s_tir, tirx

    checks = alignment_checks(kernel.params, kind)
    root = s_tir.SBlock([], [], [], "root", tirx.SeqStmt([*checks, kernel.body]))
    return kernel.with_body(s_tir.SBlockRealize([], True, root))


def alignment_checks(buffers: Sequence[Any], kind: str) -> list[Any]:
    """Statements, for the host, that refuse buffers that begin in the middle of a vector."""
    alignment = backend_of(kind).alignment
    return [
        require(
            _begins_at_multiple(buffer, alignment),
            f"{buffer.name} must begin at a multiple of {alignment} bytes, as a new allocation "
            "does: copy the view into a tensor of its own",
        )
        for buffer in buffers
        if buffer.name not in _SCALARS
    ]


def require(condition: Any, message: str) -> Any:
    """A statement that raises ValueError unless ``condition`` holds."""
    from tvm.ir import StringImm
    from tvm.tirx import AssertStmt

    # TVM 0.27's Python has the first two in the other order than its constructor in C++.
    return AssertStmt(condition, StringImm("ValueError"), [StringImm(message)])  # pyright: ignore[reportArgumentType]


def _begins_at_multiple(buffer: Any, alignment: int) -> Any:
    from tvm import tirx

    # A pointer as a number: `reinterpret` is refused by FP8StorageLegalize, and the C library has
    # no simpler function that takes the one and returns the other. No address is negative.
    address = tirx.call_extern("int64", "llabs", buffer.data)
    rest = tirx.FloorMod(address, tirx.const(alignment, "int64"))
    return tirx.EQ(rest, tirx.const(0, "int64"))
