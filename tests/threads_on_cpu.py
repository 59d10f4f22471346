"""Generated CUDA source as C++: every thread of a block is a fiber, every kernel a library.

A fiber runs until it stops, at a barrier or a shuffle, and whoever schedules fibers
(:mod:`cuda_on_cpu`, :mod:`warpgroups_on_cpu`) says which goes on. Threads of a block are
``(4, 8, warps)``.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptx_on_cpu import FUNCTIONS

#: The tensors that kernels may have, in the order of their arguments.
_ARGUMENTS = (
    "q", "k", "v", "valid_lens", "cu_seqlens_q", "cu_seqlens_kv", "bias", "output", "lse",
)  # fmt: skip

_FIBERS = r"""
#include <setjmp.h>
#include <ucontext.h>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>
typedef unsigned char uchar;
typedef unsigned int uint;
typedef unsigned short ushort;
struct alignas(8) uint2 { uint x, y; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct Index { int x, y, z; };
static const int STACK = 1 << 18;
enum State { READY, AT_SHUFFLE, AT_BARRIER, AT_NAMED, SPINNING, DONE };
struct Fiber {
  jmp_buf place;
  bool started;
  State state;
  Index index;
  int shuffles;
  std::unique_ptr<char[]> stack;
};
static Index threadIdx, blockIdx, blockDim;
static uchar* buf_dyn_shmem_ptr;
static std::vector<Fiber> fibers;
static jmp_buf scheduler;
static void (*body)();
static int current;
static uint exchanged[2][1024];
static float2 make_float2(float x, float y) { return {x, y}; }
static float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
#define CUDART_INF_F INFINITY
#define CUDART_NAN_F NAN
#define __grid_constant__
#define __device__ static
#define __forceinline__
static int max(int a, int b) { return a > b ? a : b; }
static int min(int a, int b) { return a < b ? a : b; }
static float max(float a, float b) { return fmaxf(a, b); }
static float min(float a, float b) { return fminf(a, b); }
static void stop(State state) {
  fibers[current].state = state;
  if (!_setjmp(fibers[current].place)) _longjmp(scheduler, 1);
}
// A context is slow to take up, as it asks the system for signals: once a fiber, for its stack.
static void start(Fiber& fiber) {
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = fiber.stack.get();
  context.uc_stack.ss_size = STACK;
  context.uc_link = nullptr;
  makecontext(&context, body, 0);
  fiber.started = true;
  setcontext(&context);
}
static void go_on(int thread) {
  Fiber& fiber = fibers[current = thread];
  threadIdx = fiber.index;
  if (_setjmp(scheduler)) return;
  if (fiber.started) _longjmp(fiber.place, 1);
  start(fiber);
}
static bool all_at(int first, int count, State state) {
  for (int i = first; i < first + count; ++i) if (fibers[i].state != state) return false;
  return true;
}
static void begin(int threads, void (*thread)()) {
  body = thread;
  for (int i = 0; i < threads; ++i) {
    Fiber& fiber = fibers[i];
    if (!fiber.stack) fiber.stack.reset(new char[STACK]);
    fiber.started = false;
    fiber.index = {i % 4, i / 4 % 8, i / 32};
    fiber.state = READY;
    fiber.shuffles = 0;
  }
}
static void __syncthreads() { stop(AT_BARRIER); }
static uint __activemask() { return 0xffffffffu; }
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
static uint __ballot_sync(uint mask, bool held) {
  uint lanes = 0;
  for (int lane = 0; lane < 32; ++lane) lanes |= (uint)__shfl_sync(mask, (int)held, lane) << lane;
  return lanes;
}
static int __float_as_int(float value) {
  int bits;
  memcpy(&bits, &value, 4);
  return bits;
}
static int __vimax3_s32(int a, int b, int c) { return std::max(std::max(a, b), c); }
static int __popc(uint bits) { return __builtin_popcount(bits); }
static float __shfl_down_sync(uint mask, float value, int delta, int width) {
  int lane = current & 31;
  return __shfl_sync(mask, value, lane + delta < 32 ? lane + delta : lane, width);
}
static uint __dp4a(uint a, uint b, uint sum) {
  for (int i = 0; i < 32; i += 8) sum += (a >> i & 255) * (b >> i & 255);
  return sum;
}
static bool run_block(int warps, int order);
static bool run_blocks(Index grid, int warps, int shared_bytes, int order) {
  blockDim = {4, 8, warps};
  std::vector<Fiber>(warps * 32).swap(fibers);
  buf_dyn_shmem_ptr = (uchar*)aligned_alloc(1024, (shared_bytes + 1023) / 1024 * 1024);
  bool good = true;
  for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
      for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
        memset(buf_dyn_shmem_ptr, 0xff, shared_bytes);
        good = good && run_block(warps, order);
      }
  free(buf_dyn_shmem_ptr);
  return good;
}
"""

#: Before the functions of a kernel: fibers, and what stands for PTX.
PRELUDE = _FIBERS + FUNCTIONS


@dataclass(frozen=True)
class KernelText:
    """The parts of generated source, as C++.

    Attributes
    ----------
    functions, kernel : str
        The functions of the intrinsics, in which PTX is left, and ``main_kernel``.
    types : dict[str, str]
        Of the kernel's parameters, in their order: ``half*``, or ``CUtensorMap``.
    """

    functions: str
    kernel: str
    types: dict[str, str]

    @classmethod
    def of(cls, source: str) -> KernelText:
        begin = source.rindex('extern "C" __global__')
        functions, kernel = (
            source[source.index("__device__ __forceinline__") : begin],
            source[begin:],
        )
        found = re.search(r"main_kernel\(([^)]*)\)", kernel)
        assert found is not None
        types = dict(_parameter(each) for each in found[1].split(","))
        kernel = kernel.replace('extern "C" __global__', "static")
        kernel = re.sub(r"__launch_bounds__\([^)]*\)|extern __shared__[^;]*;", "", kernel)
        functions = re.sub(r'extern "C" __global__[^;]*;', "", functions)
        return cls(functions, kernel, types)

    @property
    def thread(self) -> str:
        """The body of a fiber, ``thread()``, on parameters that are globals."""
        tensors = "".join(f"static {type_} {name};\n" for name, type_ in self.types.items())
        call = f"main_kernel({', '.join(self.types)});"
        return f"{tensors}static void thread() {{ {call} stop(DONE); }}\n"

    @property
    def arguments(self) -> tuple[str, ...]:
        """The names of the kernel's tensors, in the order of its arguments."""
        names = {tensor_of(each) for each in self.types}
        assert names <= set(_ARGUMENTS)
        return tuple(each for each in _ARGUMENTS if each in names)


def tensor_of(parameter: str) -> str:
    """What a parameter of a kernel points into.

    Examples
    --------
    >>> tensor_of("q_ptr"), tensor_of("k_map")
    ('q', 'k')
    """
    return parameter.removesuffix("_ptr").removesuffix("_map")


def compiled(text: str, folder: Path) -> Any:
    """The function ``run`` of C++ source."""
    source, library = folder / "kernel.cpp", folder / "kernel.so"
    source.write_text(text)
    # The processor's own float16: without it, each conversion is a call. And no check that a jump
    # stays on one stack, which some systems ask for: fibers have one each.
    options = ["-O1", "-march=native", "-U_FORTIFY_SOURCE", "-w", "-shared", "-fPIC"]
    subprocess.run(["g++", *options, "-o", library, source], check=True)
    return ctypes.CDLL(str(library)).run


def _parameter(text: str) -> tuple[str, str]:
    """Name and type of ``half* __restrict__ q_ptr``, or of a tensor map."""
    words = text.split()
    return words[-1], "CUtensorMap" if "CUtensorMap" in words else words[0]
