"""Small hand-written CUDA kernels ``main(query, key, value, valid_lens, output, lse)`` for tests.

One thread computes one row of one head, over ``[batch, length, heads, head_dim]`` float32 in the
``padded`` mode without groups; ``harm`` says what is wrong with the kernel.
"""

from __future__ import annotations

import math
from typing import Any

import tvm
from tvm.script import tirx as T

from prefilltune.workloads import PrefillShape, PrefillSpec, empty_lse

SPEC, SHAPE = PrefillSpec(2, 2, 16, "float32"), PrefillShape(3, 24)


def row_kernel(harm: str = "") -> Any:
    """A module with the kernel for :data:`SPEC` and :data:`SHAPE`.

    Parameters
    ----------
    harm : str
        Empty, ``wrong`` (a scale that is not the spec's), ``wild`` (writes far out of bounds),
        ``trap`` or ``wide`` (asks for more threads than a block may have).
    """
    batch, length, heads, dim = SHAPE.batch, SHAPE.qo_len, SPEC.num_qo_heads, SPEC.head_dim
    empty = empty_lse("float32")
    scale = SPEC.scale * math.log2(math.e) * (1.5 if harm == "wrong" else 1.0)
    threads = 2048 if harm == "wide" else 64
    far = 1 << 30 if harm == "wild" else 0
    trap = harm == "trap"
    rows = batch * length * heads

    @T.prim_func(s_tir=True)
    def main(
        query: T.Buffer((batch, length, heads, dim), "float32"),
        key: T.Buffer((batch, length, heads, dim), "float32"),
        value: T.Buffer((batch, length, heads, dim), "float32"),
        valid_lens: T.Buffer((batch,), "int32"),
        output: T.Buffer((batch, length, heads, dim), "float32"),
        lse: T.Buffer((batch, length, heads), "float32"),
    ):
        T.func_attr({"global_symbol": "main", "tirx.noalias": True, "tirx.is_scheduled": True})
        for block in T.thread_binding((rows + threads - 1) // threads, thread="blockIdx.x"):
            for thread in T.thread_binding(threads, thread="threadIdx.x"):
                with T.sblock("row"):
                    T.reads()
                    T.writes()
                    top = T.sblock_alloc_buffer((1,), "float32", scope="local")
                    total = T.sblock_alloc_buffer((1,), "float32", scope="local")
                    score = T.sblock_alloc_buffer((1,), "float32", scope="local")
                    acc = T.sblock_alloc_buffer((dim,), "float32", scope="local")
                    index: T.let[T.int32] = block * threads + thread
                    if index < rows:
                        b: T.let[T.int32] = index // (length * heads)
                        row: T.let[T.int32] = index // heads % length
                        h: T.let[T.int32] = index % heads
                        end: T.let[T.int32] = T.if_then_else(
                            row < valid_lens[b], T.max(0, T.min(valid_lens[b], length)), 0
                        )
                        if trap:
                            T.evaluate(T.call_extern("int32", "__trap"))
                        top[0] = T.float32(-3e38)
                        total[0] = T.float32(0)
                        for d in range(dim):
                            acc[d] = T.float32(0)
                        for j in range(end):
                            score[0] = T.float32(0)
                            for d in range(dim):
                                score[0] += query[b, row, h, d] * key[b, j, h, d]
                            top[0] = T.max(top[0], score[0] * T.float32(scale))
                        for j in range(end):
                            score[0] = T.float32(0)
                            for d in range(dim):
                                score[0] += query[b, row, h, d] * key[b, j, h, d]
                            score[0] = T.exp2(score[0] * T.float32(scale) - top[0])
                            total[0] += score[0]
                            for d in range(dim):
                                acc[d] += score[0] * value[b, j, h, d]
                        for d in range(dim):
                            output[T.int64(far) + T.Cast("int64", b), row, h, d] = T.if_then_else(
                                end > 0, acc[d] / total[0], T.float32(0)
                            )
                        lse[b, row, h] = T.if_then_else(
                            end > 0, top[0] + T.log2(total[0]), T.float32(empty)
                        )

    return tvm.IRModule({"main": main})
