"""Products on the tiles of Intel's AMX: 32 by 32 results, of bfloat16 operands.

A tile register holds 16 rows of 64 bytes. ``tdpbf16ps`` adds to 16 by 16 float32 the products of 16
rows of 32 elements with 32 rows of 16, of which two rows lie in one, element beside element (Intel
64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18). Two tiles of either
operand give four results, so that one tile is loaded for each product, and all eight registers are
in use.

Registers are named by number. What a product begins with is an intrinsic of its own, which has
nothing in memory to clear: its result lies in registers until the sum is complete.
"""

# TVMScript writes the shapes of buffers where Python has types.
# pyright: reportInvalidTypeForm=false

from __future__ import annotations

from typing import Any

from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T

#: Rows and columns of a result, and what a step sums over.
SIDE, STEP = 32, 32
_TILE = 16
#: Bytes that describe the registers: their kind, and from two places on the bytes of a row and the
#: rows of each.
CONFIG = bytes([1, *[0] * 15, *[64, 0] * 8, *[0] * 16, *[16] * 8, *[0] * 8])

_LEFT, _RIGHT = 4, 6  # registers of operands, behind those of results


def _call(name: str, *arguments: Any) -> Any:
    return T.call_llvm_intrin("int32", f"llvm.x86.{name}", *arguments)


def _register(number: Any) -> Any:
    return T.Cast("uint8", number)


def _moved(kind: str, register: Any, address: Any, stride: Any, element: int) -> Any:
    """Load or store a register, whose rows lie ``stride`` elements of so many bytes apart."""
    apart = T.Cast("int64", stride) * T.int64(element)
    name = {"load": "tileloadd64", "store": "tilestored64"}[kind]
    return _call(name, _register(register), address, apart)


def load_config(address: Any) -> Any:
    """The call that readies a thread's registers for :data:`CONFIG` at an address."""
    return _call("ldtilecfg", address)


def release() -> Any:
    """The call after which a thread's registers hold nothing that the system need save."""
    return _call("tilerelease")


def begin_intrin() -> str:
    """Register the beginning of a product, zeros; its name."""

    @T.prim_func(s_tir=True)
    def description(c: T.handle) -> None:
        C = T.match_buffer(c, (SIDE, SIDE), "float32", offset_factor=1)
        with T.sblock("root"):
            T.reads()
            T.writes(C[0:SIDE, 0:SIDE])
            for n, m in T.grid(SIDE, SIDE):
                with T.sblock("zero"):
                    vn, vm = T.axis.remap("SS", [n, m])
                    T.reads()
                    T.writes(C[vm, vn])
                    C[vm, vn] = T.float32(0)

    @T.prim_func(s_tir=True)
    def implementation(c: T.handle) -> None:
        row = T.int32()
        C = T.match_buffer(c, (SIDE, SIDE), "float32", strides=[row, 1], offset_factor=1)
        with T.sblock("root"):
            T.reads()
            T.writes(C[0:SIDE, 0:SIDE])
            for each in T.unroll(4):
                T.evaluate(_call("tilezero", _register(each)))

    return _registered("prefill_amx_begin", description, implementation)


def product_intrin(depth: int) -> str:
    """Register a product that sums over ``depth``, a multiple of :data:`STEP`; its name.

    ``C[m, n] += sum(A[m, k] * B[k // 2, 2 * n + k % 2])``.
    """

    @T.prim_func(s_tir=True)
    def description(a: T.handle, b: T.handle, c: T.handle) -> None:
        A = T.match_buffer(a, (SIDE, depth), "bfloat16", offset_factor=1)
        B = T.match_buffer(b, (depth // 2, 2 * SIDE), "bfloat16", offset_factor=1)
        C = T.match_buffer(c, (SIDE, SIDE), "float32", offset_factor=1)
        with T.sblock("root"):
            T.reads(C[0:SIDE, 0:SIDE], B[0 : depth // 2, 0 : 2 * SIDE], A[0:SIDE, 0:depth])
            T.writes(C[0:SIDE, 0:SIDE])
            for n, m, k in T.grid(SIDE, SIDE, depth):
                with T.sblock("product"):
                    vn, vm, vk = T.axis.remap("SSR", [n, m, k])
                    T.reads(C[vm, vn], B[vk // 2, vn * 2 + vk % 2], A[vm, vk])
                    T.writes(C[vm, vn])
                    C[vm, vn] = C[vm, vn] + T.Cast("float32", B[vk // 2, vn * 2 + vk % 2]) * T.Cast(
                        "float32", A[vm, vk]
                    )

    @T.prim_func(s_tir=True)
    def implementation(a: T.handle, b: T.handle, c: T.handle) -> None:
        of_a, of_b, of_c = T.int32(), T.int32(), T.int32()
        A = T.match_buffer(a, (SIDE, depth), "bfloat16", strides=[of_a, 1], offset_factor=1)
        B = T.match_buffer(
            b, (depth // 2, 2 * SIDE), "bfloat16", strides=[of_b, 1], offset_factor=1
        )
        C = T.match_buffer(c, (SIDE, SIDE), "float32", strides=[of_c, 1], offset_factor=1)
        with T.sblock("root"):
            T.reads(C[0:SIDE, 0:SIDE], B[0 : depth // 2, 0 : 2 * SIDE], A[0:SIDE, 0:depth])
            T.writes(C[0:SIDE, 0:SIDE])
            for k in T.unroll(depth // STEP):
                for t in T.unroll(2):
                    T.evaluate(
                        _moved("load", _LEFT + t, T.address_of(A[_TILE * t, STEP * k]), of_a, 2)
                    )
                    T.evaluate(
                        _moved(
                            "load",
                            _RIGHT + t,
                            T.address_of(B[STEP // 2 * k, 2 * _TILE * t]),
                            of_b,
                            2,
                        )
                    )
                for t in T.unroll(2):
                    for u in T.unroll(2):
                        T.evaluate(
                            _call(
                                "tdpbf16ps",
                                _register(2 * t + u),
                                _register(_LEFT + t),
                                _register(_RIGHT + u),
                            )
                        )
            for t in T.unroll(2):
                for u in T.unroll(2):
                    T.evaluate(
                        _moved("store", 2 * t + u, T.address_of(C[_TILE * t, _TILE * u]), of_c, 4)
                    )

    return _registered(f"prefill_amx_product_k{depth}", description, implementation)


def _registered(name: str, description: Any, implementation: Any) -> str:
    TensorIntrin.register(name, description, implementation, override=True)
    return name
