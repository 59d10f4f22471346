"""Every tensor intrinsic compiles by itself, in registers, into the instructions it is for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from intrinsic_kernels import acc_kernel, dot_kernel
from machine_code import instructions

from prefilltune.tuning.intrinsics import Product

pytest.importorskip("cuda.bindings.nvrtc", reason="needs the extra [cuda]")

INSTRUCTIONS = {
    "wgmma": ("HGMMA", "LDGSTS"),
    "mma": ("HMMA.16816", "LDSM", "LDGSTS"),
    "mma_k8": ("HMMA.1688", "LDSM"),
}

#: Products, with the oldest architecture that has them.
PRODUCTS = [
    *((Product("wgmma", dtype), "sm_90a") for dtype in ("float16", "bfloat16")),
    (Product("mma", "float16"), "sm_80"),
    (Product("mma", "bfloat16", 32), "sm_80"),
    (Product("mma_k8", "float16"), "sm_75"),
]


@pytest.mark.parametrize("head_dim", [32, 80, 128])
@pytest.mark.parametrize(("product", "arch"), PRODUCTS, ids=str)
@pytest.mark.parametrize("make", [dot_kernel, acc_kernel])
def test_intrinsics_compile_alone(
    make, product: Product, arch: str, head_dim: int, tmp_path: Path
) -> None:
    from prefilltune.tuning.backends.nvrtc import compile_cubin

    cubin = compile_cubin(make(product, 64, head_dim).source, arch)
    assert re.findall(r"(\d+) bytes spill stores", cubin.log) == ["0"]
    code = instructions(cubin.image, tmp_path)
    assert all(instruction in code for instruction in INSTRUCTIONS[product.unit])
