"""CUDA kernels around one tensor intrinsic each: tiles in, what the intrinsic makes of them out.

Fragments and panels are laid out here from the PTX ISA, not with the functions under test.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
from tvm.ir import save_json
from tvm.s_tir import TensorIntrin

from prefilltune.tuning.intrinsics import (
    JOIN,
    WAIT,
    Product,
    acc_intrin,
    copy_intrin,
    dot_intrin,
    panel_width,
)

#: Rows of the query tile: a warpgroup's.
ROWS = 64
_TYPES = {"float16": "__half", "bfloat16": "__nv_bfloat16"}

_HEAD = """
#include <cuda_fp16.h>
#include <cuda_bf16.h>
typedef {dtype} T;
{sources}
__device__ __forceinline__ T* place(T* tile, int row, int column, int rows) {{
  return tile + column / {width} * rows * {width} + row * {width} + column % {width};
}}
__device__ __forceinline__ void load(T* tile, const T* global, int rows, int columns) {{
  int thread = (threadIdx.z * 8 + threadIdx.y) * 4 + threadIdx.x;
  for (int i = thread * 8; i < rows * columns; i += 128 * 8)
    {copy}(place(tile, i / columns, i % columns, rows), global + i);
}}
// Element i of a fragment of 16 rows: 16 by 8 tiles side by side, two rows a thread, 8 apart.
__device__ __forceinline__ int row(int i) {{ return threadIdx.z * 16 + threadIdx.y + (i & 2) * 4; }}
__device__ __forceinline__ int column(int i) {{ return i / 4 * 8 + threadIdx.x * 2 + (i & 1); }}
"""

_DOT = """
extern "C" __global__ void __launch_bounds__(128) kernel(
    const T* query, const T* key, float* out) {{
  extern __shared__ __align__(1024) char memory[];
  T* keys = (T*)memory;
  T* queries = keys + {n} * {k};
  load(keys, key, {n}, {k});
  load(queries, query, {rows}, {k});
  float c[{n} / 2];
  {left}
  {join}
  {name}(c, {argument}, keys);
  {wait}
  for (int i = 0; i < {n} / 2; ++i) out[row(i) * {n} + column(i)] = c[i];
}}
"""

_ACC = """
extern "C" __global__ void __launch_bounds__(128) kernel(
    const T* weight, const T* value, const float* rescale, float* out) {{
  extern __shared__ __align__(1024) char memory[];
  T* values = (T*)memory;
  load(values, value, {k}, {n});
  asm volatile("cp.async.wait_all; {fence}" ::: "memory");
  __syncthreads();
  T a[{k} / 2];
  float c[{n} / 2], r[4];
  for (int i = 0; i < {k} / 2; ++i) a[i] = weight[row(i) * {k} + column(i)];
  for (int i = 0; i < 4; ++i) r[i] = rescale[row(i)];
  for (int i = 0; i < {n} / 2; ++i) c[i] = out[row(i) * {n} + column(i)];
  {name}(c, a, values, r);
  {wait}
  for (int i = 0; i < {n} / 2; ++i) out[row(i) * {n} + column(i)] = c[i];
}}
"""

_IN_REGISTERS = """T a[{k} / 2];
  for (int i = 0; i < {k} / 2; ++i) a[i] = query[row(i) * {k} + column(i)];"""


@dataclass(frozen=True)
class IntrinsicKernel:
    """A kernel of one block of (4, 8, 4) threads.

    Parameters
    ----------
    source : str
        Of the function ``kernel``.
    shared_bytes : int
        Dynamic shared memory that a launch needs.
    """

    source: str
    shared_bytes: int


def dot_kernel(product: Product, kv_tile: int, head_dim: int) -> IntrinsicKernel:
    """``kernel(query, key, out)``: ``out[64, kv_tile] = query[64, head_dim] * key^T``."""
    shared = product.unit == "wgmma"
    name = dot_intrin(product, kv_tile, head_dim, ROWS if shared else None)
    width = panel_width(head_dim)
    source = _head(product.dtype, name, head_dim) + _DOT.format(
        name=name, n=kv_tile, k=head_dim, rows=ROWS,
        join=f"{JOIN}_{product.unit}(0);", wait=_wait(product, kv_tile),
        left="" if shared else _IN_REGISTERS.format(k=head_dim),
        argument=f"queries + threadIdx.z * 16 * {width}" if shared else "a",
    )  # fmt: skip
    return IntrinsicKernel(source, (kv_tile + ROWS) * head_dim * 2)


def acc_kernel(product: Product, kv_tile: int, head_dim: int) -> IntrinsicKernel:
    """``kernel(weight, value, rescale, out)``: ``out = out * rescale + weight * value``."""
    name = acc_intrin(product, kv_tile, head_dim)
    source = _head(product.dtype, name, head_dim) + _ACC.format(
        name=name, wait=_wait(product, head_dim), n=head_dim, k=kv_tile,
        fence="fence.proxy.async.shared::cta;" if product.unit == "wgmma" else "",
    )  # fmt: skip
    return IntrinsicKernel(source, kv_tile * head_dim * 2)


def expected_dot(query: np.ndarray, key: np.ndarray) -> np.ndarray:
    """What :func:`dot_kernel` must give, in float64."""
    return query.astype("float64") @ key.astype("float64").T


def expected_acc(
    weight: np.ndarray, value: np.ndarray, rescale: np.ndarray, out: np.ndarray
) -> np.ndarray:
    """What :func:`acc_kernel` must give, in float64."""
    scaled = out.astype("float64") * rescale.astype("float64")[:, None]
    return scaled + weight.astype("float64") @ value.astype("float64")


def _head(dtype: str, name: str, columns: int) -> str:
    copy = copy_intrin(dtype, columns)
    sources = "".join(source for each in (copy, name) for source in _sources_of(each))
    return _HEAD.format(dtype=_TYPES[dtype], sources=sources, copy=copy, width=panel_width(columns))


def _wait(product: Product, columns: int) -> str:
    return f"{WAIT}_{columns // 2}(c, 0);" if product.unit == "wgmma" else ""


def _sources_of(intrinsic: str) -> list[str]:
    """The CUDA functions that an intrinsic's implementation brings along."""
    nodes = json.loads(save_json(TensorIntrin.get(intrinsic).impl))["nodes"]
    texts = [node["data"] for node in nodes if node.get("type") == "ffi.String"]
    return [*dict.fromkeys(text for text in texts if "__device__" in text)]
