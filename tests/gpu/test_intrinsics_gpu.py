"""Every tensor intrinsic against NumPy, on a real GPU."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from intrinsic_kernels import (
    WARPS,
    IntrinsicKernel,
    acc_kernel,
    dot_kernel,
    expected_acc,
    expected_dot,
)

from prefilltune.tuning.backends.cuda import cuda_device
from prefilltune.tuning.backends.nvrtc import compile_cubin
from prefilltune.tuning.backends.resolving import resolve_target
from prefilltune.tuning.intrinsics import Product
from prefilltune.tuning.measuring.cpu import tvm_environment
from prefilltune.tuning.measuring.worker import Worker
from prefilltune.workloads import numpy_dtype

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(cuda_device() is None, reason="no CUDA device that TVM can see"),
]

HEAD_DIMS = (32, 64, 80, 96, 128, 192, 256)
KV_TILES = (32, 64, 128)


@pytest.fixture(scope="module")
def runner() -> Iterator[Worker]:
    environment = {**tvm_environment(1), "PYTHONPATH": os.pathsep.join(sys.path)}
    with Worker(environment) as worker:
        yield worker


def launch(image: bytes, shared_bytes: int, arrays: list[np.ndarray]) -> np.ndarray:
    """Run ``kernel`` on copies of arrays; the last one as it is afterwards. Runs in a worker."""
    from cuda.bindings import driver

    def checked(result: Any) -> Any:
        status, *values = result
        if status != driver.CUresult.CUDA_SUCCESS:
            raise RuntimeError(f"the driver says {status}")
        return values[0] if values else None

    checked(driver.cuInit(0))
    device = checked(driver.cuDeviceGet(0))
    checked(driver.cuCtxSetCurrent(checked(driver.cuDevicePrimaryCtxRetain(device))))
    function = checked(
        driver.cuModuleGetFunction(checked(driver.cuModuleLoadData(image)), b"kernel")
    )
    limit = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    checked(driver.cuFuncSetAttribute(function, limit, shared_bytes))
    pointers = []
    for array in arrays:
        pointer = checked(driver.cuMemAlloc(array.nbytes))
        checked(driver.cuMemcpyHtoD(pointer, array.ctypes.data, array.nbytes))
        pointers.append(pointer)
    values = tuple(int(pointer) for pointer in pointers)
    arguments = (values, (ctypes.c_void_p,) * len(values))
    checked(driver.cuLaunchKernel(function, 1, 1, 1, 4, 8, 4, shared_bytes, 0, arguments, 0))
    checked(driver.cuCtxSynchronize())
    result = np.empty_like(arrays[-1])
    checked(driver.cuMemcpyDtoH(result.ctypes.data, pointers[-1], result.nbytes))
    return result


def _ran(runner: Worker, kernel: IntrinsicKernel, *arrays: np.ndarray) -> np.ndarray:
    image = compile_cubin(kernel.source, str(resolve_target("cuda").key.arch)).image
    outcome = runner.call(launch, image, kernel.shared_bytes, list(arrays), timeout=60)
    assert outcome.status == "ok", outcome.detail
    return outcome.value


PRODUCTS = [
    *(Product(unit, dtype) for unit in ("wgmma", "mma") for dtype in ("float16", "bfloat16")),
    Product("mma", "bfloat16", 32),
    Product("mma_k8", "float16"),
]


def _rows(product: Product) -> int:
    """Of a block's query tile."""
    arch = resolve_target("cuda").key.arch
    if product.unit == "wgmma" and not arch.startswith("sm_90"):
        pytest.skip(f"{arch} has no wgmma")
    return WARPS * product.rows


@pytest.mark.parametrize("product", PRODUCTS, ids=str)
def test_dot_is_the_product_with_the_transposed(product: Product, runner: Worker) -> None:
    rows, dtype, rng = _rows(product), product.dtype, np.random.default_rng(0)
    for head_dim in HEAD_DIMS:
        for kv_tile in KV_TILES:
            query, key = (
                rng.standard_normal((each, head_dim)).astype(numpy_dtype(dtype))
                for each in (rows, kv_tile)
            )
            out = np.full((rows, kv_tile), np.nan, "float32")
            found = _ran(runner, dot_kernel(product, kv_tile, head_dim), query, key, out)
            error = np.abs(found - expected_dot(query, key)).max()
            assert error <= 1e-3, (head_dim, kv_tile, error)


@pytest.mark.parametrize("product", PRODUCTS, ids=str)
def test_acc_rescales_and_adds_the_product(product: Product, runner: Worker) -> None:
    rows, dtype, rng = _rows(product), product.dtype, np.random.default_rng(1)
    for head_dim in HEAD_DIMS:
        for kv_tile in KV_TILES:
            weight = rng.uniform(0, 1, (rows, kv_tile)).astype(numpy_dtype(dtype))
            value = rng.standard_normal((kv_tile, head_dim)).astype(numpy_dtype(dtype))
            # Most rows keep their maximum, and a warp that keeps all of them skips rescaling.
            rescale = np.where(rng.uniform(size=rows) < 0.1, 0.25, 1.0).astype("float32")
            rescale[:16] = 1.0
            out = rng.standard_normal((rows, head_dim)).astype("float32")
            found = _ran(
                runner, acc_kernel(product, kv_tile, head_dim), weight, value, rescale, out
            )
            error = np.abs(found - expected_acc(weight, value, rescale, out)).max()
            assert error <= 1e-3, (head_dim, kv_tile, error)
