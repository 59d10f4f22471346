"""Running kernels of warpgroup products on the CPU: a check of their pipelines without a GPU.

The functions of a kernel that stand for bulk copies, barriers of rings and products are replaced
by others, which find tiles as they are, not swizzled. A product is done when it is started, or not
before it is waited for. A thread that waits lets others run, and where all wait, that is an error,
as is a slot of a ring that is filled when it is not free, or read when it has been filled again, or
whose tile begins where the copy engine cannot permute it, or has rows of no tensor.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ptx_on_cpu import on_cpu
from threads_on_cpu import PRELUDE, KernelText, compiled, tensor_of

from prefilltune.tuning.intrinsics import panel_width

#: Who runs first (bits 0 and 1, for warps and for threads of one), and when products are done.
ORDERS = range(8)

_REPLACED = r"""
#include <deque>
#include <functional>
struct CUtensorMap { void* data; int columns, heads, length, batch, shared; };
static const int THREADS = 1024;
static int computing;
static long events;
static bool late;
static int counts[THREADS], counted[3], named[THREADS], arrivals[16], needed[16];
static int filled[64], freed[64], kept[THREADS];
static std::deque<std::function<void()>> products[THREADS];
static void fail(const char* what, int slot) { fprintf(stderr, "%s %d\n", what, slot); abort(); }
static int __syncthreads_count(bool value) {
  int turn = counts[current]++ % 3;
  counted[(turn + 1) % 3] = 0;
  counted[turn] += value;
  stop(AT_BARRIER);
  return counted[turn];
}
static void ptx_named(int barrier, int count) {
  named[current] = barrier;
  needed[barrier] = count;
  ++arrivals[barrier];
  stop(AT_NAMED);
}
static void __syncwarp() { __shfl_sync(0, 0, 0); }
static int __clz(int value) { return value ? __builtin_clz(value) : 32; }
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
static void prefill_ring_free(void*, int slot, int turn) {
  while (freed[slot] < turn * computing) stop(SPINNING);
}
static void prefill_ring_filled(void*, int slot) { ++filled[slot], ++events; }
static void prefill_ring_done(void*, int slot) {
  if (threadIdx.x + threadIdx.y == 0) ++freed[slot], ++events;
}
static void load(
    int slot, int turn, half* tile, const CUtensorMap& map, int left, int row, int head, int batch,
    int rows, int columns, int width) {
  while (freed[slot] < turn * computing) stop(SPINNING);
  if (freed[slot] != turn * computing || filled[slot] != turn) fail("not the turn of slot", slot);
  if (((uchar*)tile - buf_dyn_shmem_ptr) % (16 * width))
    fail("a permuted tile begins at no multiple of eight of its rows: slot", slot);
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < columns; ++c) {
      int own = row + r / map.shared, of = head + r % map.shared;
      bool there = r / map.shared < left && c < map.columns;
      if (there && (own < 0 || own >= map.length)) fail("rows outside of the tensor: slot", slot);
      long place = ((long)(batch * map.length + own) * map.heads + of) * map.columns + c;
      tile[(c / width * rows + r) * width + c % width] = there ? ((half*)map.data)[place] : (half)0;
    }
  ++filled[slot], ++events;
}
static void started(std::function<void()> product) {
  if (late) products[current].push_back(product);
  else {
    __syncwarp();
    product();
    __syncwarp();
  }
}
static void waited(int pending) {
  __syncwarp();
  auto& own = products[current];
  for (; (int)own.size() > pending; own.pop_front()) own.front()();
  __syncwarp();
}
static void dot(
    float* c, const half* a, const half* b, int keys, int n, int k, int q, int width) {
  for (int f = 0; f < n / 8; ++f)
    for (int i = 0; i < 4; ++i) {
      int row = threadIdx.y + i / 2 * 8, column = f * 8 + threadIdx.x * 2 + i % 2;
      float sum = 0;
      for (int d = 0; d < k; ++d)
        sum += (float)a[(d / width * q + row) * width + d % width] *
               (float)b[(d / width * keys + column) * width + d % width];
      c[f * 4 + i] = sum;
    }
}
static half weights[4][THREADS / 32][16][256];
static void acc(float* c, const half* a, const half* b, int keys, int n, int k, int width) {
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
                          (float)b[(column / width * keys + j) * width + column % width];
      }
  });
}
"""

_DRIVER = r"""
static void release(int first, int count, State state) {
  if (!all_at(first, count, state)) return;
  for (int i = first; i < first + count; ++i) fibers[i].state = READY;
  ++events;
}
static bool run_block(int warps, int order) {
  int threads = warps * 32, idle = 0;
  begin(threads, thread);
  memset(counts, 0, sizeof counts), memset(counted, 0, sizeof counted);
  memset(filled, 0, sizeof filled), memset(freed, 0, sizeof freed), memset(kept, 0, sizeof kept);
  memset(arrivals, 0, sizeof arrivals);
  for (int i = 0; i < threads; ++i) products[i].clear();
  while (!all_at(0, threads, DONE)) {
    long before = events;
    for (int w = 0; w < warps; ++w)
      for (int l = 0; l < 32; ++l) {
        int next = (order & 1 ? warps - 1 - w : w) * 32 + (order & 2 ? 31 - l : l);
        if (fibers[next].state != READY && fibers[next].state != SPINNING) continue;
        go_on(next);
        events += fibers[next].state != SPINNING;
      }
    for (int w = 0; w < warps; ++w) release(w * 32, 32, AT_SHUFFLE);
    release(0, threads, AT_BARRIER);
    for (int i = 0; i < threads; ++i)
      if (fibers[i].state == AT_NAMED && arrivals[named[i]] % needed[named[i]] == 0)
        fibers[i].state = READY, ++events;
    idle = events == before ? idle + 1 : 0;
    if (idle > 2) return false;
  }
  return true;
}
extern "C" int run(
    void** given, CUtensorMap* maps, int blocks, int warps, int shared_bytes, int order) {
  GIVEN
  late = order & 4;
  return run_blocks({blocks, 1, 1}, warps, shared_bytes, order);
}
"""

#: What functions that are replaced are called, and what they do.
_FUNCTIONS = (
    (
        r"ring_load_(\d+)x(\d+)(?:_packed)?(?:_of\d+)?_alone",
        "load(slot, turn, (half*)tile, *(CUtensorMap*)map, left, row, head, batch, {0}, {1}, {w1})",
    ),
    (
        r"dot_wgmma_n(\d+)_k(\d+)_q(\d+)_float16",
        "started([=] {{ dot(c, (half*)a_, (half*)b_, {0}, {0}, {1}, {2}, {w1}); }})",
    ),
    (
        r"dot_wgmma_n(\d+)_k(\d+)_q(\d+)_float16_half",
        "started([=] {{ dot(c, (half*)a_, (half*)b_, {0}, {0} / 2, {1}, {2}, {w1}); }})",
    ),
    (r"acc_wgmma_n(\d+)_k(\d+)_float16", "acc(c, (half*)a_, (half*)b_, {1}, {0}, {1}, {w0})"),
    (
        r"acc_wgmma_n(\d+)_k(\d+)_float16_half",
        "acc(c, (half*)a_, (half*)b_, {1}, {0}, {1} / 2, {w0})",
    ),
    (r"wait_product_(\d+)", "waited(pending)"),
    (r"registers_(?:inc|dec)_(\d+)", ""),
)

_FUNCTION = re.compile(
    r"^__device__ __forceinline__ \w+ prefill_(?P<name>\w+)\((?P<parameters>[^)]*)\) \{\n"
    r"(?P<body>(?:.*\n)*?)\}\n",
    re.MULTILINE,
)


class Tensor(ctypes.Structure):
    """What tiles of ``shared`` heads are copied from: ``[batch, length, heads, columns]``."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("columns", ctypes.c_int),
        ("heads", ctypes.c_int),
        ("length", ctypes.c_int),
        ("batch", ctypes.c_int),
        ("shared", ctypes.c_int),
    )


def kernel_on_cpu(
    source: str, blocks: int, warps: int, shared_bytes: int, folder: Path, heads: int = 1
) -> Callable[..., None]:
    """Compile the source of a persistent kernel with a producer, of float16.

    Parameters
    ----------
    heads : int
        That share a tile of queries.

    Returns
    -------
    Callable[..., None]
        ``kernel(query, key, value, valid_lens, output, lse, order)`` on NumPy arrays, with the bias
        behind ``valid_lens`` if there is one; ``order`` is one of :data:`ORDERS`.
    """
    text = KernelText.of(source)
    functions = on_cpu(_FUNCTION.sub(_replaced, text.functions))
    places = {name: place for place, name in enumerate(text.arguments)}
    copied = [name for name, type_ in text.types.items() if type_ == "CUtensorMap"]
    given = " ".join(
        f"{name} = maps[{copied.index(name)}];"
        if name in copied
        else f"{name} = ({type_})given[{places[tensor_of(name)]}];"
        for name, type_ in text.types.items()
    )
    driver = _DRIVER.replace("GIVEN", given)
    run = compiled(PRELUDE + _REPLACED + functions + text.kernel + text.thread + driver, folder)

    def kernel(*arguments: np.ndarray, order: int) -> None:
        pointers = (ctypes.c_void_p * len(arguments))(*(each.ctypes.data for each in arguments))
        tensors = (
            _tensor(arguments[places[tensor_of(name)]], heads if tensor_of(name) == "q" else 1)
            for name in copied
        )
        maps = (Tensor * len(copied))(*tensors)
        good = run(pointers, maps, blocks, warps, shared_bytes, order)
        assert good, "all threads of a block wait"

    return kernel


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


def _tensor(array: np.ndarray, shared: int) -> Tensor:
    batch, length, heads, columns = array.shape
    return Tensor(array.ctypes.data, columns, heads, length, batch, shared)
