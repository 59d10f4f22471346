"""Running generated CUDA source on the CPU: a check of schedules where there is no GPU.

Every thread of a block is a fiber that runs until its next barrier or shuffle. Warps, and threads
of a warp, take turns in a chosen order, so that a missing barrier shows as a wrong result.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ptx_on_cpu import FUNCTIONS, on_cpu

#: Who runs first between two barriers, for warps and for threads of a warp.
ORDERS = range(4)

_PARAMETERS = (
    "q", "k", "v", "valid_lens", "cu_seqlens_q", "cu_seqlens_kv", "bias", "output", "lse",
)  # fmt: skip

_RUNTIME = r"""
#include <ucontext.h>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <vector>
typedef unsigned char uchar;
typedef unsigned int uint;
typedef unsigned short ushort;
struct alignas(8) uint2 { uint x, y; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct Index { int x, y, z; };
enum State { READY, AT_SHUFFLE, AT_BARRIER, DONE };
struct Fiber {
  ucontext_t context;
  State state;
  Index index;
  int shuffles;
  std::vector<char> stack;
};
static Index threadIdx, blockIdx, blockDim;
static uchar* buf_dyn_shmem_ptr;
static std::vector<Fiber> fibers;
static ucontext_t scheduler;
static int current;
static float exchanged[2][1024];
static float2 make_float2(float x, float y) { return {x, y}; }
static float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
#define CUDART_INF_F INFINITY
#define CUDART_NAN_F NAN
static int max(int a, int b) { return a > b ? a : b; }
static int min(int a, int b) { return a < b ? a : b; }
static float max(float a, float b) { return fmaxf(a, b); }
static float min(float a, float b) { return fminf(a, b); }
#define __device__ static
#define __forceinline__
static void stop(State state) {
  fibers[current].state = state;
  swapcontext(&fibers[current].context, &scheduler);
}
static void __syncthreads() { stop(AT_BARRIER); }
static uint __activemask() { return 0xffffffffu; }
static float __shfl_sync(uint, float value, int lane, int) {
  int self = current, turn = fibers[self].shuffles++ % 2;
  exchanged[turn][self] = value;
  stop(AT_SHUFFLE);
  return exchanged[turn][(self & ~31) + (lane & 31)];
}
static float __shfl_xor_sync(uint mask, float value, int other) {
  return __shfl_sync(mask, value, (current & 31) ^ other, 32);
}
static float __shfl_down_sync(uint mask, float value, int delta, int width) {
  int lane = current & 31;
  return __shfl_sync(mask, value, lane + delta < 32 ? lane + delta : lane, width);
}
"""

_DRIVER = r"""
static void thread() {
  main_kernel(ARGUMENTS);
  stop(DONE);
}
static bool all_at(int first, int count, State state) {
  for (int i = first; i < first + count; ++i) if (fibers[i].state != state) return false;
  return true;
}
static bool run_warp(int warp, bool backwards) {
  do {
    for (int i = 0; i < 32; ++i) {
      current = warp * 32 + (backwards ? 31 - i : i);
      threadIdx = fibers[current].index;
      swapcontext(&scheduler, &fibers[current].context);
    }
  } while (all_at(warp * 32, 32, AT_SHUFFLE));
  return all_at(warp * 32, 32, AT_BARRIER) || all_at(warp * 32, 32, DONE);
}
static bool run_block(int warps, int order) {
  int threads = warps * 32;
  for (int i = 0; i < threads; ++i) {
    Fiber& fiber = fibers[i];
    fiber.stack.resize(1 << 18);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    makecontext(&fiber.context, thread, 0);
    fiber.index = {i % 4, i / 4 % 8, i / 32};
    fiber.shuffles = 0;
  }
  do {
    for (int i = 0; i < warps; ++i)
      if (!run_warp(order & 1 ? warps - 1 - i : i, order & 2)) return false;
  } while (all_at(0, threads, AT_BARRIER));
  return all_at(0, threads, DONE);
}
extern "C" int run(void** given, int x, int y, int z, int warps, int shared_bytes, int order) {
  GIVEN
  blockDim = {4, 8, warps};
  std::vector<Fiber>(warps * 32).swap(fibers);
  buf_dyn_shmem_ptr = (uchar*)aligned_alloc(1024, (shared_bytes + 1023) / 1024 * 1024);
  bool good = true;
  for (blockIdx.z = 0; blockIdx.z < z; ++blockIdx.z)
    for (blockIdx.y = 0; blockIdx.y < y; ++blockIdx.y)
      for (blockIdx.x = 0; blockIdx.x < x; ++blockIdx.x) {
        memset(buf_dyn_shmem_ptr, 0xff, shared_bytes);
        good = good && run_block(warps, order);
      }
  free(buf_dyn_shmem_ptr);
  return good;
}
"""


def kernel_on_cpu(
    source: str, grid: tuple[int, int, int], warps: int, shared_bytes: int, folder: Path
) -> Callable[..., None]:
    """Compile the source of a kernel over threads (4, 8, warps).

    Returns
    -------
    Callable[..., None]
        ``kernel(query, key, value, valid_lens, output, lse, order)`` on NumPy arrays, with the bias
        behind ``valid_lens`` if there is one, and with the offsets of packed sequences in its
        place; ``order`` is one of :data:`ORDERS`.
    """
    text, library = folder / "kernel.cpp", folder / "kernel.so"
    text.write_text(_cpp(source))
    subprocess.run(["g++", "-O1", "-w", "-shared", "-fPIC", "-o", library, text], check=True)
    run = ctypes.CDLL(str(library)).run

    def kernel(*arguments: np.ndarray, order: int) -> None:
        pointers = (ctypes.c_void_p * len(arguments))(*(each.ctypes.data for each in arguments))
        assert run(pointers, *grid, warps, shared_bytes, order), "threads of a block part ways"

    return kernel


def _cpp(source: str) -> str:
    begin = source.rindex('extern "C" __global__')
    functions, kernel = source[source.index("__device__ __forceinline__") : begin], source[begin:]
    found = re.search(r"main_kernel\(([^)]*)\)", kernel)
    assert found is not None
    types = dict(_parameter(each) for each in found[1].split(","))
    parameters = [name for name in _PARAMETERS if name in types]
    assert sorted(types) == sorted(parameters)
    kernel = kernel.replace('extern "C" __global__', "static")
    kernel = re.sub(r"__launch_bounds__\([^)]*\)|extern __shared__[^;]*;", "", kernel)
    functions = re.sub(r'extern "C" __global__[^;]*;', "", functions)
    tensors = "".join(f"static {type_} {name};\n" for name, type_ in types.items())
    given = " ".join(f"{n} = ({types[n]})given[{i}];" for i, n in enumerate(parameters))
    driver = _DRIVER.replace("ARGUMENTS", ", ".join(types)).replace("GIVEN", given)
    return _RUNTIME + FUNCTIONS + on_cpu(functions) + kernel + tensors + driver


def _parameter(text: str) -> tuple[str, str]:
    """Name and type of ``half* __restrict__ q_ptr``."""
    type_, *_, name = text.split()
    return name.removesuffix("_ptr"), type_
