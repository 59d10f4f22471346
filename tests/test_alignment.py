"""What code takes for granted of where tensors begin."""

from __future__ import annotations

import re
from typing import Any

import tvm
from tvm.script import tirx as T

from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.building.alignment import (
    alignment_checks,
    alignment_of,
    parameter,
    refuse_misaligned,
)
from prefilltune.tuning.building.build import generate


@T.prim_func(s_tir=True)
def _sum(source: T.Buffer((1024,), "float32"), total: T.Buffer((16,), "float32")):
    """Of rows, which are kept in memory of the kernel's own first."""
    T.func_attr({"global_symbol": "main", "tirx.noalias": True})
    kept = T.alloc_buffer((1024,))
    for i in range(64):
        for j in T.vectorized(16):
            with T.sblock("keep"):
                vi, vj = T.axis.remap("SS", [i, j])
                kept[vi * 16 + vj] = source[vi * 16 + vj]
    for j in range(16):
        with T.sblock("first"):
            vj = T.axis.spatial(16, j)
            total[vj] = T.float32(0)
    for i in range(64):
        for j in T.vectorized(16):
            with T.sblock("sum"):
                vi, vj = T.axis.remap("SS", [i, j])
                total[vj] = total[vj] + kept[(63 - vi) * 16 + vj]


def _told_to_llvm(function: Any) -> set[str]:
    """What LLVM is told of where parameters begin."""
    module = tvm.IRModule({"main": function})
    code = generate(module, resolve_target("llvm", 1).target).inspect_source("ll")
    return set(re.findall(r'"align"\(ptr [^,]*, i64 (\d+)\)', code))


def test_code_for_cpus_reads_tensors_from_anywhere_and_its_own_memory_aligned() -> None:
    anywhere = refuse_misaligned(_sum, "llvm")
    assert (_told_to_llvm(_sum), _told_to_llvm(anywhere)) == ({"64"}, {"4"})
    (own,) = (line for line in anywhere.script().splitlines() if "alloc" in line)
    assert "align" not in own  # TVM's usual 64


def test_what_tensors_must_begin_at_a_multiple_of() -> None:
    assert [alignment_of(dtype, "llvm") for dtype in ("float16", "float32")] == [2, 4]
    assert [alignment_of(dtype, "cuda") for dtype in ("float16", "float32")] == [16, 16]


def test_a_bias_may_begin_at_any_of_its_elements() -> None:
    names = ("q", "valid_lens", "bias")
    for kind, query in (("llvm", 2), ("cuda", 16)):
        dtypes = ("float16", "int32", "float32")
        buffers = [parameter((8,), *each, kind) for each in zip(dtypes, names, strict=True)]
        found = [str(each.message_parts[0].value) for each in alignment_checks(buffers, kind)]
        multiples = [
            f"{name} must begin at a multiple of {n} " for name, n in (("q", query), ("bias", 4))
        ]
        assert [text.startswith(each) for text, each in zip(found, multiples, strict=True)] == [
            True
        ] * 2
