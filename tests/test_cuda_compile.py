"""TVM's masked kernel compiles for CUDA on a machine without a GPU or a toolkit, through NVRTC."""

from __future__ import annotations

import pytest
import tvm
from tvm.target import Target

from prefilltune.workloads import PrefillSpec, masked_baseline

pytest.importorskip("cuda.bindings.nvrtc", reason="needs the extra [cuda]")


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("mask_mode", ["padded", "causal_padded_left"])
def test_baseline_compiles(arch: str, mask_mode: str) -> None:
    spec = PrefillSpec(8, 2, 64, "float16", mask_mode)
    fields = {"kind": "cuda", "arch": arch, "max_shared_memory_per_block": 49152}
    target = Target(fields, host="llvm")
    module = masked_baseline(spec, target)
    library = tvm.compile(module, target=target)
    (device_code,) = library.mod.imports
    assert device_code.kind == "cuda"
    assert "__global__" in device_code.inspect_source()
