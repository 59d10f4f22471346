"""Running kernels of warpgroup products on the CPU: a check of their pipelines without a GPU.

The functions of a kernel that stand for bulk copies, barriers of rings and products are replaced
by others, which find tiles as they are, not swizzled. A product is done when it is started, or not
before it is waited for. Every thread is a fiber; one that waits lets others run, and where all
wait, that is an error, as is a slot of a ring that is filled when it is not free, or read when it
has been filled again.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ptx_on_cpu import FUNCTIONS, on_cpu

from prefilltune.tuning.intrinsics import panel_width

#: Who runs first (bits 0 and 1, for warps and for threads of one), and when products are done.
ORDERS = range(8)

_RUNTIME = r"""
#include <ucontext.h>
#include <cmath>
#include <cstdio>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <vector>
typedef unsigned char uchar;
typedef unsigned int uint;
typedef unsigned short ushort;
struct alignas(8) uint2 { uint x, y; };
struct alignas(8) float2 { float x, y; };
struct Index { int x, y, z; };
enum State { READY, AT_SHUFFLE, AT_BARRIER, AT_NAMED, SPINNING, DONE };
struct Fiber {
  ucontext_t context;
  State state;
  Index index;
  int shuffles, counts, barrier;
  std::vector<char> stack;
  std::deque<std::function<void()>> products;
};
struct Map { void* data; int columns, heads, length, batch; };
static Index threadIdx, blockIdx, blockDim;
static uchar* buf_dyn_shmem_ptr;
static std::vector<Fiber> fibers;
static ucontext_t scheduler;
static int current, computing;
static long events;
static bool late;
static float exchanged[2][1024];
static int counted[3], filled[64], freed[64], arrivals[16], needed[16];
static float2 make_float2(float x, float y) { return {x, y}; }
#define CUDART_INF_F INFINITY
#define CUDART_NAN_F NAN
#define __grid_constant__
#define CUtensorMap Map
#define __device__ static
#define __forceinline__
static int max(int a, int b) { return a > b ? a : b; }
static int min(int a, int b) { return a < b ? a : b; }
static float max(float a, float b) { return fmaxf(a, b); }
static float min(float a, float b) { return fminf(a, b); }
static void fail(const char* what, int slot) { fprintf(stderr, "%s %d\n", what, slot); abort(); }
static void stop(State state) {
  fibers[current].state = state;
  events += state != SPINNING;
  swapcontext(&fibers[current].context, &scheduler);
}
static void __syncthreads() { stop(AT_BARRIER); }
static int __syncthreads_count(bool value) {
  int turn = fibers[current].counts++ % 3;
  counted[(turn + 1) % 3] = 0;
  counted[turn] += value;
  stop(AT_BARRIER);
  return counted[turn];
}
static void ptx_named(int barrier, int count) {
  fibers[current].barrier = barrier;
  needed[barrier] = count;
  ++arrivals[barrier];
  stop(AT_NAMED);
}
template <typename T> static T __shfl_sync(uint, T value, int lane, int = 32) {
  int self = current, turn = fibers[self].shuffles++ % 2;
  memcpy(&exchanged[turn][self], &value, 4);
  stop(AT_SHUFFLE);
  memcpy(&value, &exchanged[turn][(self & ~31) + (lane & 31)], 4);
  return value;
}
template <typename T> static T __shfl_xor_sync(uint mask, T value, int other) {
  return __shfl_sync(mask, value, (current & 31) ^ other);
}
static void __syncwarp() { __shfl_sync(0, 0, 0); }
"""

_REPLACED = r"""
static uint __pack_half2(half x, half y) {
  half both[] = {x, y};
  uint word;
  memcpy(&word, both, 4);
  return word;
}
static uint4 make_uint4(uint x, uint y, uint z, uint w) { return {x, y, z, w}; }
static void prefill_ring_begin(void*, int, int warps) { computing = warps; }
static void prefill_ring_prefetch(unsigned long long) {}
static void prefill_ring_arrived(void*, int slot, int turn) {
  while (filled[slot] <= turn) stop(SPINNING);
  if (filled[slot] != turn + 1) fail("filled again before it was read: slot", slot);
}
static void prefill_ring_done(void*, int slot) {
  if (threadIdx.x + threadIdx.y == 0) ++freed[slot], ++events;
}
static void load(
    int slot, int turn, half* tile, const Map& map, int row, int head, int batch, int rows,
    int columns, int width) {
  while (freed[slot] < turn * computing) stop(SPINNING);
  if (freed[slot] != turn * computing || filled[slot] != turn) fail("not the turn of slot", slot);
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < columns; ++c) {
      bool there = row + r >= 0 && row + r < map.length && c < map.columns;
      long place = ((long)(batch * map.length + row + r) * map.heads + head) * map.columns + c;
      tile[(c / width * rows + r) * width + c % width] = there ? ((half*)map.data)[place] : (half)0;
    }
  ++filled[slot], ++events;
}
static void started(std::function<void()> product) {
  if (late) fibers[current].products.push_back(product);
  else {
    __syncwarp();
    product();
    __syncwarp();
  }
}
static void waited(int pending) {
  __syncwarp();
  auto& products = fibers[current].products;
  for (; (int)products.size() > pending; products.pop_front()) products.front()();
  __syncwarp();
}
static void dot(float* c, const half* a, const half* b, int n, int k, int q, int width) {
  for (int f = 0; f < n / 8; ++f)
    for (int i = 0; i < 4; ++i) {
      int row = threadIdx.y + i / 2 * 8, column = f * 8 + threadIdx.x * 2 + i % 2;
      float sum = 0;
      for (int d = 0; d < k; ++d)
        sum += (float)a[(d / width * q + row) * width + d % width] *
               (float)b[(d / width * n + column) * width + d % width];
      c[f * 4 + i] = sum;
    }
}
static half weights[4][64][16][256];
static int kept[64 * 32];
static void acc(float* c, const half* a, const half* b, int n, int k, int width) {
  int warp = current / 32, turn = kept[current]++ % 4;
  for (int f = 0; f < k / 8; ++f)
    for (int i = 0; i < 4; ++i)
      weights[turn][warp][threadIdx.y + i / 2 * 8][f * 8 + threadIdx.x * 2 + i % 2] = a[f * 4 + i];
  started([=] {
    for (int f = 0; f < n / 8; ++f)
      for (int i = 0; i < 4; ++i) {
        int row = threadIdx.y + i / 2 * 8, column = f * 8 + threadIdx.x * 2 + i % 2;
        for (int j = 0; j < k; ++j)
          c[f * 4 + i] += (float)weights[turn][warp][row][j] *
                          (float)b[(column / width * k + j) * width + column % width];
      }
  });
}
"""

_DRIVER = r"""
static void thread() {
  main_kernel(ARGUMENTS);
  stop(DONE);
}
static void release(int first, int count, State state) {
  for (int i = first; i < first + count; ++i) if (fibers[i].state != state) return;
  for (int i = first; i < first + count; ++i) fibers[i].state = READY;
  ++events;
}
static bool run_block(int warps, int order) {
  int threads = warps * 32, idle = 0;
  for (int i = 0; i < threads; ++i) {
    Fiber& fiber = fibers[i];
    fiber.stack.resize(1 << 18);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    makecontext(&fiber.context, thread, 0);
    fiber.index = {i % 4, i / 4 % 8, i / 32};
    fiber.state = READY;
    fiber.shuffles = fiber.counts = kept[i] = 0;
  }
  memset(counted, 0, sizeof counted), memset(filled, 0, sizeof filled);
  memset(freed, 0, sizeof freed), memset(arrivals, 0, sizeof arrivals);
  for (;;) {
    long before = events;
    bool done = true;
    for (int w = 0; w < warps; ++w)
      for (int l = 0; l < 32; ++l) {
        int warp = order & 1 ? warps - 1 - w : w;
        current = warp * 32 + (order & 2 ? 31 - l : l);
        if (fibers[current].state != READY && fibers[current].state != SPINNING) continue;
        fibers[current].state = READY;
        threadIdx = fibers[current].index;
        swapcontext(&scheduler, &fibers[current].context);
      }
    for (int w = 0; w < warps; ++w) release(w * 32, 32, AT_SHUFFLE);
    release(0, threads, AT_BARRIER);
    for (Fiber& fiber : fibers)
      if (fiber.state == AT_NAMED && arrivals[fiber.barrier] % needed[fiber.barrier] == 0)
        fiber.state = READY, ++events;
    for (Fiber& fiber : fibers) done = done && fiber.state == DONE;
    if (done) return true;
    idle = events == before ? idle + 1 : 0;
    if (idle > 2) return false;
  }
}
extern "C" int run(
    void** given, Map* maps, int blocks, int warps, int shared_bytes, int order) {
  GIVEN
  blockDim = {4, 8, warps};
  late = order & 4;
  std::vector<Fiber>(warps * 32).swap(fibers);
  buf_dyn_shmem_ptr = (uchar*)aligned_alloc(1024, (shared_bytes + 1023) / 1024 * 1024);
  bool good = true;
  for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
    memset(buf_dyn_shmem_ptr, 0xff, shared_bytes);
    good = good && run_block(warps, order);
  }
  free(buf_dyn_shmem_ptr);
  return good;
}
"""

#: What functions that are replaced are called, and what they do.
_FUNCTIONS = (
    (
        r"ring_load_(\d+)x(\d+)_alone",
        "load(slot, turn, (half*)tile, *(Map*)map, row, head, batch, {0}, {1}, {w1})",
    ),
    (
        r"dot_wgmma_n(\d+)_k(\d+)_q(\d+)_float16",
        "started([=] {{ dot(c, (half*)a_, (half*)b_, {0}, {1}, {2}, {w1}); }})",
    ),
    (r"acc_wgmma_n(\d+)_k(\d+)_float16", "acc(c, (half*)a_, (half*)b_, {0}, {1}, {w0})"),
    (r"wait_product_(\d+)", "waited(pending)"),
    (r"registers_(?:inc|dec)_(\d+)", ""),
)

_FUNCTION = re.compile(
    r"^__device__ __forceinline__ \w+ prefill_(?P<name>\w+)\((?P<parameters>[^)]*)\) \{\n"
    r"(?P<body>(?:.*\n)*?)\}\n",
    re.MULTILINE,
)


class Tensor(ctypes.Structure):
    """A tensor ``[batch, length, heads, columns]`` that tiles are copied from."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("columns", ctypes.c_int),
        ("heads", ctypes.c_int),
        ("length", ctypes.c_int),
        ("batch", ctypes.c_int),
    )


def kernel_on_cpu(
    source: str, blocks: int, warps: int, shared_bytes: int, folder: Path
) -> Callable[..., None]:
    """Compile the source of a persistent kernel with a producer, of float16.

    Returns
    -------
    Callable[..., None]
        ``kernel(arrays, order)`` on NumPy arrays by the names of parameters, those that are bulk
        copied ``[batch, length, heads, columns]``; ``order`` is one of :data:`ORDERS`.
    """
    begin = source.rindex('extern "C" __global__')
    functions, kernel = source[source.index("__device__ __forceinline__") : begin], source[begin:]
    found = re.search(r"main_kernel\(([^)]*)\)", kernel)
    assert found is not None
    types = dict(_parameter(each) for each in found[1].split(","))
    kernel = kernel.replace('extern "C" __global__', "static")
    kernel = re.sub(r"__launch_bounds__\([^)]*\)|extern __shared__[^;]*;", "", kernel)
    functions = re.sub(r'extern "C" __global__[^;]*;', "", functions)
    functions = on_cpu(_FUNCTION.sub(_replaced, functions))
    tensors = "".join(f"static {type_} {name};\n" for name, type_ in types.items())
    maps = [name for name, type_ in types.items() if type_ == "Map"]
    arrays = [name for name in types if name not in maps]
    given = " ".join(
        [*(f"{n} = ({types[n]})given[{i}];" for i, n in enumerate(arrays)),
         *(f"{n} = maps[{i}];" for i, n in enumerate(maps))]
    )  # fmt: skip
    driver = _DRIVER.replace("ARGUMENTS", ", ".join(types)).replace("GIVEN", given)
    text, library = folder / "kernel.cpp", folder / "kernel.so"
    text.write_text(_RUNTIME + FUNCTIONS + _REPLACED + functions + kernel + tensors + driver)
    command = ["g++", "-O2", "-w", "-shared", "-fPIC", "-o", str(library), str(text)]
    subprocess.run(command, check=True)
    run = ctypes.CDLL(str(library)).run

    def call(values: Mapping[str, Any], order: int) -> None:
        pointers = (ctypes.c_void_p * len(arrays))(
            *(values[name.removesuffix("_ptr")].ctypes.data for name in arrays)
        )
        copied = (Tensor * len(maps))(*(_tensor(values[n.removesuffix("_map")]) for n in maps))
        good = run(pointers, copied, blocks, warps, shared_bytes, order)
        assert good, "all threads of a block wait"

    return call


def _replaced(function: re.Match[str]) -> str:
    for pattern, call in _FUNCTIONS:
        found = re.fullmatch(pattern, function["name"])
        if found:
            sizes = [int(each) for each in found.groups()]
            widths = {f"w{i}": panel_width(-(-each // 16) * 16) for i, each in enumerate(sizes)}
            before = re.match(r"  if \(__any_sync(?:.*\n)*?  \}\n", function["body"])
            body = (before[0] if before else "") + f"  {call.format(*sizes, **widths)};\n"
            head = f"static void prefill_{function['name']}({function['parameters']})"
            return f"{head} {{\n{body}}}\n"
    known = re.search(rf"static \w+ prefill_{function['name']}\(", _REPLACED)
    return "" if known else function[0]


def _parameter(text: str) -> tuple[str, str]:
    """Name and type of ``half* __restrict__ q_ptr``, or of a tensor map."""
    *_, name = text.split()
    if "CUtensorMap" in text:
        return name, "Map"
    return name, text.split()[0]


def _tensor(array: np.ndarray) -> Tensor:
    batch, length, heads, columns = array.shape
    return Tensor(array.ctypes.data, columns, heads, length, batch)
