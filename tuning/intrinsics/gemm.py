"""The two matrix products of attention on tensor cores, one warp's 16 rows at a time.

Tiles in shared memory are stored in the panels of :func:`~.fragments.panel_width`.

The products keep their own order in the memory pipeline. Loads are started by :mod:`.copies` and
joined by :func:`dot_intrin`: it waits until all of them have arrived and meets the warps of the
block at a barrier, after which the tiles of which every warp had read the products before may be
overwritten. Joining loads, starting a product and waiting for it are calls of their own, which
:mod:`~prefilltune.tuning.pipeline` may move apart.
"""

# TVMScript writes the shapes of buffers where Python has types.
# pyright: reportInvalidTypeForm=false

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T

from .fragments import (
    FRAGMENT,
    PTX_TYPES,
    SHARED,
    UNTRACKED,
    WARP_ROWS,
    in_panel,
    panel_width,
)
from .mma import mma_source
from .uniform import warp_number


@dataclass(frozen=True)
class Product:
    """A kind of tensor-core product.

    Parameters
    ----------
    unit : str
        ``wgmma`` (sm_90a), ``mma`` (sm_80 and later) or ``mma_k8`` (sm_75 and later, whose
        instructions sum over 8 at a time).
    dtype : str
        Of the operands: ``float16`` or ``bfloat16``.
    rows : int
        That a warp computes: 16, or but with ``wgmma`` a multiple. Of more rows, each part of a
        tile that a warp reads from shared memory serves more instructions.
    """

    unit: str
    dtype: str
    rows: int = WARP_ROWS

    @property
    def name(self) -> str:
        """What names of intrinsics call it."""
        return self.unit if self.rows == WARP_ROWS else f"{self.unit}_m{self.rows}"

    def is_told_its_warp(self, q_tile: int | None) -> bool:
        """Whether functions are given the number of the warp, with queries in shared memory.

        Descriptors of ``wgmma`` say where a warpgroup's rows of ``q_tile`` lie.
        """
        return self.unit == "wgmma" and q_tile is not None


#: Functions that wait, by the beginning of their names. The last argument of a call is how many, of
#: what was started latest, need not have ended: groups of loads, or products.
JOIN, WAIT = "prefill_join_loads", "prefill_wait_product"

# What a product of wgmma is called.
_PRODUCT_NAME = r"prefill_(dot|acc)_wgmma_n(?P<n>\d+)_k(?P<k>\d+)(_q(?P<q>\d+))?_(?P<dtype>\w+16)"

# wgmma reads shared memory through the asynchronous proxy. A thread must fence what it has copied
# before it meets the others at the barrier; a fence of the reading thread behind the barrier is not
# enough.
_JOIN_SOURCE = """
__device__ __forceinline__ void {name}(int pending) {{
{wait}  __syncthreads();
}}
"""
_WAIT_FOR_COPIES = """\
  asm volatile("cp.async.commit_group;" ::: "memory");
  if (pending == 0) asm volatile("cp.async.wait_group 0;" ::: "memory");
  else asm volatile("cp.async.wait_group 1;" ::: "memory");
"""
_FENCE_PROXY = '  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");\n'

# Keeps the compiler from moving what uses the result `c` across the place where this stands, as it
# cannot know that a product writes it later than where it is started.
_PIN = """\
  #pragma unroll
  for (int i = 0; i < {count}; ++i) asm volatile("" : "+f"(c[i]) :: "memory");
"""
_WAIT_SOURCE = """
__device__ __forceinline__ void {name}(float* c, int pending) {{
  if (pending == 0) asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  else asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
{pin}}}
"""


def with_pending(call: Any, pending: int) -> Any:
    """A call of one of the functions that wait, for all but ``pending``, at most 1."""
    name, *arguments, _, source = call.args
    return T.cuda.func_call(name, *arguments, pending, source_code=source)


def of_half(call: Any, *, scores: bool) -> Any:
    """A call of a ``wgmma`` product, with the first half of a tile of keys; None for other calls.

    The tile lies in shared memory as it did, and so do the fragments that it gives or takes.

    Parameters
    ----------
    scores : bool
        Whether this is of the product that gives scores: what waits for it, waits for half of them.
    """
    name = getattr(next(iter(getattr(call, "args", ())), None), "value", None)
    if not isinstance(name, str):
        return None
    _, *arguments, _ = call.args
    waits = re.fullmatch(rf"{WAIT}_(?P<count>\d+)", name)
    if waits is not None:
        result, pending = arguments
        half = _wait("wgmma", result, int(waits["count"]))  # two columns a register
        return with_pending(half, pending) if scores else None
    found = re.fullmatch(_PRODUCT_NAME, name)
    if found is None:
        return None
    columns, depth = int(found["n"]), int(found["k"])
    q_tile = None if found["q"] is None else int(found["q"])
    keys = columns if scores else depth
    if scores:
        columns //= 2
    else:
        depth //= 2
    half, product = f"{name}_half", Product("wgmma", found["dtype"])
    source = _source(half, product, columns, depth, q_tile, values=not scores, keys=keys)
    return T.cuda.func_call(half, *arguments, source_code=source)


def _join(unit: str) -> Any:
    """A call that meets all threads once the loads that they started have arrived."""
    name = f"{JOIN}_{unit}"
    wait = {"wgmma": _WAIT_FOR_COPIES + _FENCE_PROXY, "mma": _WAIT_FOR_COPIES, "mma_k8": ""}[unit]
    return T.cuda.func_call(name, 0, source_code=_JOIN_SOURCE.format(name=name, wait=wait))


def _wait(unit: str, result: Any, columns: int) -> Any:
    """A call that waits for the product; ``mma`` has ended when the next instruction begins."""
    if unit != "wgmma":
        return 0
    count = columns // 2
    name = f"{WAIT}_{count}"
    source = _WAIT_SOURCE.format(name=name, pin=_PIN.format(count=count))
    return T.cuda.func_call(name, result, 0, source_code=source)


def _all(buffer: Any) -> Any:
    """The whole region of a buffer."""
    return buffer[tuple(slice(0, extent) for extent in buffer.shape)]


@cache  # parsing takes as long as the rest of a replay
def dot_intrin(product: Product, kv_tile: int, head_dim: int, q_tile: int | None = None) -> str:
    """Register ``dot[rows, kv_tile] = q_rows[rows, head_dim] * k_rows[kv_tile, head_dim]^T``.

    Parameters
    ----------
    q_tile : int, optional
        Rows of the query tile in shared memory; in registers if absent.

    Returns
    -------
    str
        Name of the intrinsic. It adds to the result in form only: what it finds there, which must
        be zero, is never read.
    """
    place = "" if q_tile is None else f"_q{q_tile}"
    name = f"prefill_dot_{product.name}_n{kv_tile}_k{head_dim}{place}_{product.dtype}"
    source = _source(name, product, kv_tile, head_dim, q_tile, values=False)
    dtype, M, K, N = product.dtype, product.rows, head_dim, kv_tile
    W = panel_width(K)
    if q_tile is None:
        a_shape, a_strides, a_scope = (M, K), None, FRAGMENT
    else:
        a_shape, a_strides, a_scope = (K // W, M, W), [q_tile * W, W, 1], SHARED

    def left(A: Any, row: Any, column: Any) -> Any:
        if q_tile is None:
            return A[row, column]
        panel, place = in_panel(column, W, K)
        return A[panel, row, place]

    def right(B: Any, row: Any, column: Any) -> Any:
        panel, place = in_panel(column, W, K)
        return B[0, panel, row, place]

    join = _join(product.unit)

    def call(C: Any, A: Any, B: Any) -> Any:
        query = T.address_of(A[0, 0]) if q_tile is None else A.access_ptr(UNTRACKED)
        operands = [query, B.access_ptr(UNTRACKED)]
        if product.is_told_its_warp(q_tile):
            operands.append(warp_number())
        return T.cuda.func_call(name, T.address_of(C[0, 0]), *operands, source_code=source)

    def end(C: Any) -> Any:
        return _wait(product.unit, T.address_of(C[0, 0]), N)

    @T.prim_func(s_tir=True)
    def description(a: T.handle, b: T.handle, c: T.handle) -> None:
        A = T.match_buffer(a, a_shape, dtype, strides=a_strides, offset_factor=1, scope=a_scope)
        B = T.match_buffer(b, (1, K // W, N, W), dtype, offset_factor=1, scope=SHARED)
        C = T.match_buffer(c, (M, N), "float32", offset_factor=1, scope=FRAGMENT)
        with T.sblock("root"):
            T.reads(_all(C), _all(A), _all(B))
            T.writes(_all(C))
            for i, j, k in T.grid(M, N, K):
                with T.sblock("dot"):
                    vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                    C[vi, vj] = C[vi, vj] + T.cast(left(A, vi, vk), "float32") * T.cast(
                        right(B, vj, vk), "float32"
                    )

    @T.prim_func(s_tir=True)
    def implementation(a: T.handle, b: T.handle, c: T.handle) -> None:
        A = T.match_buffer(a, a_shape, dtype, strides=a_strides, offset_factor=1, scope=a_scope)
        B = T.match_buffer(b, (1, K // W, N, W), dtype, offset_factor=1, scope=SHARED)
        C = T.match_buffer(c, (M, N), "float32", offset_factor=1, scope=FRAGMENT)
        with T.sblock("root"):
            T.reads(_all(C), _all(A), _all(B))
            T.writes(_all(C))
            for _ty in T.thread_binding(8, "threadIdx.y"):
                for _tx in T.thread_binding(4, "threadIdx.x"):
                    T.evaluate(join)
                    T.evaluate(call(C, A, B))
                    T.evaluate(end(C))

    TensorIntrin.register(name, description, implementation, override=True)
    return name


@cache
def acc_intrin(product: Product, kv_tile: int, head_dim: int) -> str:
    """Register ``acc[rows, head_dim] = acc * rescale + probs[rows, kv_tile] * v_rows``.

    Returns
    -------
    str
        Name of the intrinsic.
    """
    name = f"prefill_acc_{product.name}_n{head_dim}_k{kv_tile}_{product.dtype}"
    source = _source(name, product, head_dim, kv_tile, None, values=True)
    dtype, M, K, N = product.dtype, product.rows, kv_tile, head_dim
    W = panel_width(N)

    def right(B: Any, row: Any, column: Any) -> Any:
        panel, place = in_panel(column, W, N)
        return B[0, panel, row, place]

    def call(C: Any, A: Any, B: Any, R: Any) -> Any:
        registers = [T.address_of(each[0, 0]) for each in (C, A, R)]
        result, weights, rescale = registers
        value = B.access_ptr(UNTRACKED)
        return T.cuda.func_call(name, result, weights, value, rescale, source_code=source)

    def end(C: Any) -> Any:
        return _wait(product.unit, T.address_of(C[0, 0]), N)

    @T.prim_func(s_tir=True)
    def description(a: T.handle, b: T.handle, r: T.handle, c: T.handle) -> None:
        A = T.match_buffer(a, (M, K), dtype, offset_factor=1, scope=FRAGMENT)
        B = T.match_buffer(b, (1, N // W, K, W), dtype, offset_factor=1, scope=SHARED)
        R = T.match_buffer(r, (M, 8), "float32", offset_factor=1, scope=FRAGMENT)
        C = T.match_buffer(c, (M, N), "float32", offset_factor=1, scope=FRAGMENT)
        with T.sblock("root"):
            T.reads(_all(C), _all(R), _all(A), _all(B))
            T.writes(_all(C))
            for i, j, k in T.grid(M, N, K):
                with T.sblock("acc"):
                    vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                    C[vi, vj] = C[vi, vj] * T.if_then_else(
                        vk == 0, R[vi, vj % 8], T.float32(1)
                    ) + T.cast(A[vi, vk], "float32") * T.cast(right(B, vk, vj), "float32")

    @T.prim_func(s_tir=True)
    def implementation(a: T.handle, b: T.handle, r: T.handle, c: T.handle) -> None:
        A = T.match_buffer(a, (M, K), dtype, offset_factor=1, scope=FRAGMENT)
        B = T.match_buffer(b, (1, N // W, K, W), dtype, offset_factor=1, scope=SHARED)
        R = T.match_buffer(r, (M, 8), "float32", offset_factor=1, scope=FRAGMENT)
        C = T.match_buffer(c, (M, N), "float32", offset_factor=1, scope=FRAGMENT)
        with T.sblock("root"):
            T.reads(_all(C), _all(R), _all(A), _all(B))
            T.writes(_all(C))
            for _ty in T.thread_binding(8, "threadIdx.y"):
                for _tx in T.thread_binding(4, "threadIdx.x"):
                    T.evaluate(call(C, A, B, R))
                    T.evaluate(end(C))

    TensorIntrin.register(name, description, implementation, override=True)
    return name


# Two elements of a fragment. Read through a pointer to another type they would be undefined.
_FRAGMENT_WORDS = """\
  auto a = [&](int i) {
    unsigned word;
    memcpy(&word, (const char*)a_ + 4 * i, 4);
    return word;
  };
"""

# Skipped by warps none of whose rows moved its maximum (factor 1), as in most tiles.
_RESCALE = """\
  if (__any_sync(0xffffffffu, {moved})) {{
    #pragma unroll
    for (int i = 0; i < {count}; ++i) c[i] *= r[i / {per_block} * 4 + (i & 2)];
  }}
"""


def _rescale(rows: int, columns: int) -> str:
    """Rescales a result of ``rows`` by ``columns``, two rows a thread in each block of 16."""
    factors = (4 * block + row for block in range(rows // WARP_ROWS) for row in (0, 2))
    moved = " || ".join(f"r[{each}] != 1.0f" for each in factors)
    return _RESCALE.format(moved=moved, count=rows * columns // 32, per_block=columns // 2)


_FENCE = '  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");\n'
_COMMIT = '  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");\n'


def _source(
    name: str,
    product: Product,
    columns: int,
    depth: int,
    q_tile: int | None,
    *,
    values: bool,
    keys: int | None = None,
) -> str:
    """CUDA of a product; ``values`` if the rows of the tile in shared memory are summed over.

    That tile has as many rows as are summed over or are columns of the result, or more: ``keys``.
    """
    parameters = "float* c, void* a_, void* b_" + (", float* r" if values else "")
    if product.is_told_its_warp(q_tile):
        parameters += ", int warp"
    before = _rescale(product.rows, columns) if values else ""
    if product.unit == "wgmma":
        body = _wgmma(product, columns, depth, q_tile, values, keys)
    else:
        at_once = 8 if product.unit == "mma_k8" else 16
        body = mma_source(
            product.dtype, product.rows, columns, depth, q_tile, values=values, at_once=at_once
        )
    return f"\n__device__ __forceinline__ void {name}({parameters}) {{\n{before}{body}}}\n"


def _wgmma(
    product: Product,
    columns: int,
    depth: int,
    q_tile: int | None,
    values: bool,
    keys: int | None,
) -> str:
    """``wgmma``: the four warps of a warpgroup give 16 rows each."""
    ptx, count = PTX_TYPES[product.dtype], columns // 2
    results = ", ".join(f"%{i}" for i in range(count))
    width = panel_width(columns if values else depth)
    rows = keys or (depth if values else columns)
    if values:
        # 16 rows further in every panel; panels side by side are named by the descriptor.
        right_step = f"{{k}} * {16 * width * 2 >> 4}"
        setup = _descriptor("right", "b_)", width, panel_bytes=rows * width * 2)
    else:
        right_step = _along_row(width, rows)
        setup = _descriptor("right", "b_)", width)
    if q_tile is None:
        left = "{" + ", ".join(f"%{count + i}" for i in range(4)) + "}"
        inputs = ", ".join(f'"r"(a(({{k}})*4+{i}))' for i in range(4))
        flags, right = f"1, 1, {int(values)}", f"%{count + 4}"
        setup += _FRAGMENT_WORDS
    else:
        left, right, flags = f"%{count}", f"%{count + 1}", f"1, 1, 0, {int(values)}"
        inputs = f'"l"(left + (unsigned long long)({_along_row(width, q_tile)}))'
        # All four warps name the first one's rows.
        first = f"a_) - (warp & 3) * {WARP_ROWS * width * 2}"
        setup += _descriptor("left", first, width)

    def multiply(index: str, accumulate: bool) -> str:
        constraint = "+f" if accumulate else "=f"
        outputs = ", ".join(f'"{constraint}"(c[{i}])' for i in range(count))
        return (
            '    asm volatile("{ .reg .pred add; setp.ne.b32 add, '
            f"{int(accumulate)}, 0; wgmma.mma_async.sync.aligned.m64n{columns}k16"
            f'.f32.{ptx}.{ptx} "\n'
            f'      "{{{results}}}, {left}, {right}, add, {flags}; }}"\n'
            f"      : {outputs}\n"
            f"      : {inputs.format(k=index)},"
            f' "l"(right + (unsigned long long)({right_step.format(k=index)})));\n'
        )

    loop = "  #pragma unroll\n  for (int k = {first}; k < " + f"{depth // 16}; ++k)\n"
    if values:
        products = _PIN.format(count=count) + _FENCE + loop.format(first=0) + multiply("k", True)
    else:
        # The first product overwrites its result: no zeros have to be written before.
        products = _FENCE + multiply("0", False)
        products += loop.format(first=1) + multiply("k", True)
    return f"{setup}{products}{_COMMIT}"


def _along_row(width: int, rows: int) -> str:
    """How far a K-major descriptor moves for product ``k`` of 16 columns, in units of 16 bytes."""
    per_panel = width // 16
    return f"({{k}}) % {per_panel} * 2 + ({{k}}) / {per_panel} * {rows * width * 2 >> 4}"


def _descriptor(name: str, address: str, width: int, panel_bytes: int = 16) -> str:
    """A wgmma matrix descriptor (PTX ISA, "Matrix Descriptor Format").

    Its stride leads over 8 rows; its leading offset, which K-major tiles ignore, to the next panel.
    """
    mode = {64: 1, 32: 2, 16: 3}[width]
    fields = (mode << 62) | (8 * width * 2 >> 4 << 32) | (panel_bytes >> 4 << 16)
    return (
        f"  unsigned {name}_address = (unsigned)__cvta_generic_to_shared({address};\n"
        f"  unsigned long long {name} = {fields:#x}ull"
        f" | (unsigned long long)(({name}_address & 0x3FFFF) >> 4);\n"
    )
