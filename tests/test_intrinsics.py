"""Every tensor intrinsic compiles by itself, in registers, into the instructions it is for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from intrinsic_kernels import acc_kernel, dot_kernel
from machine_code import instructions

from prefilltune.tuning.intrinsics import Product

pytest.importorskip("cuda.bindings.nvrtc", reason="needs the extra [cuda]")

INSTRUCTIONS = {"wgmma": ("HGMMA", "LDGSTS"), "mma": ("HMMA", "LDSM", "LDGSTS")}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("head_dim", [32, 80, 128])
@pytest.mark.parametrize(("unit", "arch"), [("wgmma", "sm_90a"), ("mma", "sm_80")])
@pytest.mark.parametrize("make", [dot_kernel, acc_kernel])
def test_intrinsics_compile_alone(
    make, unit: str, arch: str, head_dim: int, dtype: str, tmp_path: Path
) -> None:
    from prefilltune.tuning.backends.nvrtc import compile_cubin

    cubin = compile_cubin(make(Product(unit, dtype), 64, head_dim).source, arch)
    assert re.findall(r"(\d+) bytes spill stores", cubin.log) == ["0"]
    code = instructions(cubin.image, tmp_path)
    assert all(instruction in code for instruction in INSTRUCTIONS[unit])
