"""Every tensor intrinsic compiles by itself, in registers, into the instructions it is for."""

from __future__ import annotations

import re
import subprocess
import sysconfig
from pathlib import Path

import pytest
from intrinsic_kernels import acc_kernel, dot_kernel

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
    from prefilltune.tuning.nvrtc import compile_cubin

    cubin = compile_cubin(make(Product(unit, dtype), 64, head_dim).source, arch)
    assert re.findall(r"(\d+) bytes spill stores", cubin.log) == ["0"]
    tool = next(Path(sysconfig.get_path("purelib")).glob("nvidia/*/bin/nvdisasm"), None)
    if tool is None:
        pytest.skip("needs nvidia-cuda-nvdisasm")
    path = tmp_path / "kernel.cubin"
    path.write_bytes(cubin.image)
    code = subprocess.run([tool, path], capture_output=True, text=True, check=True).stdout
    assert all(instruction in code for instruction in INSTRUCTIONS[unit])
