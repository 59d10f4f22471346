"""Threads that compute on the tile registers of AMX: readied when they begin, released at the end.

The system lets a process use them that has asked for it, once; where it does not, or where the CPU
has none, a kernel says so instead of being killed.
"""

from __future__ import annotations

from typing import Any

from ..intrinsics.amx import CONFIG, load_config, release
from ..requiring import require
from .annotations import TILE_REGISTERS
from .steps import is_annotated, other_annotations

# Linux's system call, what it is to do, and which state is meant (Documentation/arch/x86/xstate).
_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18
_WORDS = 8
_OPERANDS = "bfloat16"
_REFUSED = (
    "this CPU has no AMX tiles, or the system keeps programs from using them; take a kernel of "
    "llvm_fused: tune with --space llvm_fused, or build for a CPU without AMX"
)


def in_words(stmt: Any) -> Any:
    """A loop with :data:`TILE_REGISTERS`, operands of bfloat16 as words of 16 bits; else None.

    TVM keeps what is bfloat16 within a kernel as float32, which no product reads.
    """
    import tvm_ffi
    from tvm import s_tir, tirx
    from tvm.ir import TensorLoad, Var

    if not is_annotated(stmt, TILE_REGISTERS):
        return None
    operands: list[Any] = []

    def note(block: Any) -> None:
        for match in block.match_buffers:
            if match.buffer.dtype == _OPERANDS:
                operands.extend([match.buffer, match.source.source])

    tvm_ffi.structural_walk(stmt, (s_tir.SBlock, note))
    words = [(each, _of_words(each)) for each in dict.fromkeys(operands)]

    def of_words(buffer: Any) -> Any:
        return next((new for old, new in words if old.same_as(buffer)), buffer)

    def load(each: Any) -> Any:
        found = of_words(each.source)
        return each if found.same_as(each.source) else tirx.BufferLoad(found, each.indices)

    def store(each: Any) -> Any:
        found = of_words(each.buffer)
        if found.same_as(each.buffer):
            return each
        return tirx.BufferStore(found, _bits(each.value), each.indices)

    callbacks = [(TensorLoad, load), (tirx.BufferStore, store), (Var, of_words)]
    return tvm_ffi.structural_map(stmt, callbacks, order="pre")


def _of_words(buffer: Any) -> Any:
    """A buffer like another, of words."""
    from tvm import tirx

    return tirx.decl_buffer(
        buffer.shape,
        "uint16",
        buffer.name,
        strides=buffer.strides,
        elem_offset=buffer.elem_offset,
        scope=buffer.scope(),
        data_alignment=buffer.data_alignment,
        offset_factor=buffer.offset_factor,
    )


def _bits(value: Any) -> Any:
    """The bits of a bfloat16; where that is of a float32, of the nearest one, ties to the even."""
    from tvm import tirx

    if not isinstance(value, tirx.Cast):
        return tirx.reinterpret("uint16", value)
    wide: Any = value.value
    bits: Any = tirx.reinterpret("uint32", wide)
    half, last = tirx.const(0x7FFF, "uint32"), tirx.const(1, "uint32")
    upper = tirx.const(16, "uint32")
    rounded: Any = bits + half + ((bits >> upper) & last)
    nan = tirx.const(0x7FC0, "uint16")
    return tirx.Select(tirx.isnan(wide), nan, tirx.Cast("uint16", rounded >> upper))


def with_tile_registers(stmt: Any) -> Any:
    """A loop over threads with :data:`TILE_REGISTERS`, with what these need; else None."""
    from tvm import s_tir, tirx

    if not is_annotated(stmt, TILE_REGISTERS):
        return None
    config: Any = tirx.decl_buffer((_WORDS,), "int64", "tile_config")
    words = [int.from_bytes(CONFIG[8 * each : 8 * each + 8], "little") for each in range(_WORDS)]
    stores = [
        tirx.BufferStore(config, tirx.IntImm("int64", word), [tirx.IntImm("int32", each)])
        for each, word in enumerate(words)
    ]
    address = tirx.address_of(tirx.BufferLoad(config, [tirx.IntImm("int32", 0)]))
    body = tirx.SeqStmt(
        [*stores, tirx.Evaluate(load_config(address)), stmt.body, tirx.Evaluate(release())]
    )
    block = s_tir.SBlock([], [], [], "tile_registers", body, None, [config])
    kept = other_annotations(stmt, TILE_REGISTERS)
    loop = tirx.For(
        stmt.loop_var,
        stmt.min,
        stmt.extent,
        stmt.kind,
        s_tir.SBlockRealize([], True, block),
        annotations=kept,
    )
    return tirx.SeqStmt([_permitted(), loop])


def _permitted() -> Any:
    from tvm import tirx

    numbers = [
        tirx.IntImm("int64", each) for each in (_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA)
    ]
    answer: Any = tirx.call_extern("int64", "syscall", *numbers)
    return require(answer == 0, _REFUSED, "RuntimeError")
