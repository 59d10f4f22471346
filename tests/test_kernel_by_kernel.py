"""A pass that goes over each kernel by itself does what it does to all at once."""

from __future__ import annotations

from typing import Any

import pytest
import tvm
from tvm.s_tir.transform import CompactBufferAllocation
from tvm.script import tirx as T

from prefilltune.tuning.backends.cuda import CUDA
from prefilltune.tuning.backends.kernel_by_kernel import kernel_by_kernel
from prefilltune.tuning.backends.resolving import resolve_target


@T.prim_func(s_tir=True)
def two_kernels(a: T.Buffer((64,), "float32"), n: T.int32):
    with T.sblock("root"):
        if T.tvm_thread_invariant(n > 1):
            with T.sblock("first"):
                for block in T.thread_binding(8, thread="blockIdx.x"):
                    with T.sblock("tile"):
                        tile = T.sblock_alloc_buffer((64,), scope="local")
                        for i in range(8):
                            tile[block * 8 + i] = a[block * 8 + i]
                        for i in range(8):
                            a[block * 8 + i] = tile[block * 8 + i]
        else:
            with T.sblock("second"):
                for block in T.thread_binding(16, thread="blockIdx.x"):
                    with T.sblock("tile"):
                        tile = T.sblock_alloc_buffer((64,), scope="local")
                        for i in range(4):
                            tile[block * 4 + i] = a[block * 4 + i]
                        for i in range(4):
                            a[block * 4 + i] = tile[block * 4 + i]


MODULE = tvm.IRModule({"main": two_kernels})


def test_kernels_become_what_they_do_at_once() -> None:
    done = CompactBufferAllocation()(MODULE)
    assert "sblock_alloc_buffer((4,)" in done.script()
    assert "sblock_alloc_buffer((8,)" in done.script()
    tvm.ir.assert_structural_equal(kernel_by_kernel(CompactBufferAllocation())(MODULE), done)


def test_each_is_seen_without_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{kernel_by_kernel.__module__}.usable_cores", lambda: 1)  # in their order
    seen: list[str] = []

    def see(function: Any, module: Any, context: Any) -> Any:
        seen.append(function.script())
        return function

    looking = tvm.tirx.transform.prim_func_pass(see, opt_level=0, name="see")
    tvm.ir.assert_structural_equal(kernel_by_kernel(looking)(MODULE), MODULE)
    assert [each.count("blockIdx.x") for each in seen] == [1, 1]
    assert ["16" in each for each in seen] == [False, True]


@pytest.mark.parametrize("others", [{}, {"other": two_kernels}], ids=["alone", "beside another"])
def test_builds_do_for_all_functions_what_was_done_for_one(others: dict[str, Any]) -> None:
    """So that the pass, which goes over all of them, can be left out."""
    target = resolve_target("cuda", arch="sm_80").target
    lowered = CUDA.lowered(two_kernels, target)
    module, left_out = CUDA.lowered_alike(tvm.IRModule({"main": lowered, **others}), target)
    assert left_out == [CompactBufferAllocation().info.name]
    tvm.ir.assert_structural_equal(CompactBufferAllocation()(module), module)  # nothing is left
    assert module["main"].same_as(lowered)


def test_builds_of_functions_that_nothing_was_done_for_stay_as_they_are() -> None:
    target = resolve_target("cuda", arch="sm_80").target
    module, left_out = CUDA.lowered_alike(MODULE, target)
    assert (module, left_out) == (MODULE, [])
