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

#: Warps of a block: a warpgroup.
WARPS = 4
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
// Element i of a fragment: 16 by 8 tiles side by side, two rows a thread, 8 apart; 16 rows further
// down where those of a tile are full.
__device__ __forceinline__ int row(int i, int columns) {{
  return threadIdx.z * {warp_rows} + i / (columns / 2) * 16 + threadIdx.y + (i & 2) * 4;
}}
__device__ __forceinline__ int column(int i, int columns) {{
  return i % (columns / 2) / 4 * 8 + threadIdx.x * 2 + (i & 1);
}}
"""

_DOT = """
extern "C" __global__ void __launch_bounds__(128) kernel(
    const T* query, const T* key, float* out) {{
  extern __shared__ __align__(1024) char memory[];
  T* keys = (T*)memory;
  T* queries = keys + {n} * {k};
  load(keys, key, {n}, {k});
  load(queries, query, {rows}, {k});
  float c[{n} / 2 * {stacked}];
  {left}
  {join}
  {name}(c, {argument}, keys{more});
  {wait}
  for (int i = 0; i < {n} / 2 * {stacked}; ++i) out[row(i, {n}) * {n} + column(i, {n})] = c[i];
}}
"""

_ACC = """
extern "C" __global__ void __launch_bounds__(128) kernel(
    const T* weight, const T* value, const float* rescale, float* out) {{
  extern __shared__ __align__(1024) char memory[];
  T* values = (T*)memory;
  load(values, value, {k}, {n});
  {arrive}
  __syncthreads();
  T a[{k} / 2 * {stacked}];
  float c[{n} / 2 * {stacked}], r[4 * {stacked}];
  for (int i = 0; i < {k} / 2 * {stacked}; ++i) a[i] = weight[row(i, {k}) * {k} + column(i, {k})];
  for (int i = 0; i < 4 * {stacked}; ++i) r[i] = rescale[row(i, 8)];
  for (int i = 0; i < {n} / 2 * {stacked}; ++i) c[i] = out[row(i, {n}) * {n} + column(i, {n})];
  {name}(c, a, values, r);
  {wait}
  for (int i = 0; i < {n} / 2 * {stacked}; ++i) out[row(i, {n}) * {n} + column(i, {n})] = c[i];
}}
"""

# What a thread has started to copy is there, where the instructions that come next see it.
_ARRIVE = {
    "wgmma": 'asm volatile("cp.async.wait_all; fence.proxy.async.shared::cta;" ::: "memory");',
    "mma": 'asm volatile("cp.async.wait_all;" ::: "memory");',
    "mma_k8": "",
}

_IN_REGISTERS = """T a[{k} / 2 * {stacked}];
  for (int i = 0; i < {k} / 2 * {stacked}; ++i)
    a[i] = query[row(i, {k}) * {k} + column(i, {k})];"""


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
    """``kernel(query, key, out)``: ``out[rows, kv_tile] = query[rows, head_dim] * key^T``.

    The query tile is in shared memory for ``wgmma``, and for warps of more than 16 rows.
    """
    rows, stacked = WARPS * product.rows, product.rows // 16
    shared = product.unit == "wgmma" or stacked > 1
    name = dot_intrin(product, kv_tile, head_dim, rows if shared else None)
    width = panel_width(head_dim)
    source = _head(product, name, head_dim) + _DOT.format(
        name=name, n=kv_tile, k=head_dim, rows=rows, stacked=stacked,
        join=f"{JOIN}_{product.unit}(0);", wait=_wait(product, kv_tile),
        left="" if shared else _IN_REGISTERS.format(k=head_dim, stacked=stacked),
        argument=f"queries + threadIdx.z * {product.rows} * {width}" if shared else "a",
        more=", threadIdx.z" if product.unit == "wgmma" else "",
    )  # fmt: skip
    return IntrinsicKernel(source, (kv_tile + rows) * head_dim * 2)


def acc_kernel(product: Product, kv_tile: int, head_dim: int) -> IntrinsicKernel:
    """``kernel(weight, value, rescale, out)``: ``out = out * rescale + weight * value``."""
    name = acc_intrin(product, kv_tile, head_dim)
    source = _head(product, name, head_dim) + _ACC.format(
        name=name, wait=_wait(product, head_dim), n=head_dim, k=kv_tile, stacked=product.rows // 16,
        arrive=_ARRIVE[product.unit],
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


def _head(product: Product, name: str, columns: int) -> str:
    copy = copy_intrin(product.dtype, columns, plain=product.unit == "mma_k8")
    sources = "".join(source for each in (copy, name) for source in _sources_of(each))
    return _HEAD.format(
        dtype=_TYPES[product.dtype], sources=sources, copy=copy, width=panel_width(columns),
        warp_rows=product.rows,
    )  # fmt: skip


def _wait(product: Product, columns: int) -> str:
    return f"{WAIT}_{columns // 2}(c, 0);" if product.unit == "wgmma" else ""


def _sources_of(intrinsic: str) -> list[str]:
    """The CUDA functions that an intrinsic's implementation brings along."""
    nodes = json.loads(save_json(TensorIntrin.get(intrinsic).impl))["nodes"]
    texts = [node["data"] for node in nodes if node.get("type") == "ffi.String"]
    return [*dict.fromkeys(text for text in texts if "__device__" in text)]
