"""The two matrix products of attention on tensor cores, one warp's 16 rows at a time.

Both read their right operand from shared memory laid out as core matrices, 8 rows of 16 bytes each
(PTX ISA, "Shared Memory Matrix Layout", no swizzle): a tile ``[rows, columns]`` is stored as
``[columns / 8, rows / 8, 8, 8]``, which ``ldmatrix`` and ``wgmma`` read without bank conflicts.

The products keep their own order in the memory pipeline. Loads are started by
:mod:`.copies` and joined here: :func:`dot_intrin` closes the group of loads before it, waits
until no more than ``groups_in_flight`` groups are open, and meets all warps of the block at a
barrier, after which every tile that was read before may be overwritten.
"""

# TVMScript writes the shapes of buffers where Python has types.
# pyright: reportInvalidTypeForm=false

from __future__ import annotations

from typing import Any

from tvm.s_tir import TensorIntrin
from tvm.script import tirx as T

from .fragments import FRAGMENT, PTX_TYPES, SHARED, UNTRACKED, WARP_ROWS

#: Bytes of a core matrix.
_CORE = 128


def dot_intrin(
    unit: str, kv_tile: int, head_dim: int, dtype: str, groups_in_flight: int, *, wait: bool = True
) -> str:
    """Register ``dot[16, kv_tile] = q_rows[16, head_dim] * k_rows[kv_tile, head_dim]^T``.

    Parameters
    ----------
    unit : str
        ``wgmma`` or ``mma``.
    groups_in_flight : int
        Groups of loads that may still be on their way when the product starts.
    wait : bool
        Whether the result is there when the call returns; if not, that of :func:`acc_intrin`
        called next waits for it.

    Returns
    -------
    str
        Name of the intrinsic; it needs no zeroed result.
    """
    name = f"prefill_dot_{unit}_n{kv_tile}_k{head_dim}_{dtype}_g{groups_in_flight}" + (
        "" if wait else "_async"
    )
    source = _source(
        name,
        unit,
        dtype,
        columns=kv_tile,
        depth=head_dim,
        rows_are_depth=False,
        before=_JOIN_LOADS.format(groups=groups_in_flight)
        + (_FENCE_PROXY if unit == "wgmma" else ""),
        waits="0" if wait else "",
    )

    K, N = head_dim, kv_tile

    @T.prim_func(s_tir=True)
    def description(a: T.handle, b: T.handle, c: T.handle) -> None:
        A = T.match_buffer(a, (WARP_ROWS, K), dtype, offset_factor=1, scope=FRAGMENT)
        B = T.match_buffer(b, (1, K // 8, N // 8, 8, 8), dtype, offset_factor=1, scope=SHARED)
        C = T.match_buffer(c, (WARP_ROWS, N), "float32", offset_factor=1, scope=FRAGMENT)
        with T.sblock("root"):
            T.reads(
                C[0:WARP_ROWS, 0:N],
                A[0:WARP_ROWS, 0:K],
                B[0:1, 0 : K // 8, 0 : N // 8, 0:8, 0:8],
            )
            T.writes(C[0:WARP_ROWS, 0:N])
            for i, j, k in T.grid(WARP_ROWS, N, K):
                with T.sblock("dot"):
                    vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                    C[vi, vj] = C[vi, vj] + T.cast(A[vi, vk], "float32") * T.cast(
                        B[0, vk // 8, vj // 8, vj % 8, vk % 8], "float32"
                    )

    @T.prim_func(s_tir=True)
    def implementation(a: T.handle, b: T.handle, c: T.handle) -> None:
        A = T.match_buffer(a, (WARP_ROWS, K), dtype, offset_factor=1, scope=FRAGMENT)
        B = T.match_buffer(b, (1, K // 8, N // 8, 8, 8), dtype, offset_factor=1, scope=SHARED)
        C = T.match_buffer(c, (WARP_ROWS, N), "float32", offset_factor=1, scope=FRAGMENT)
        with T.sblock("root"):
            T.reads(
                C[0:WARP_ROWS, 0:N],
                A[0:WARP_ROWS, 0:K],
                B[0:1, 0 : K // 8, 0 : N // 8, 0:8, 0:8],
            )
            T.writes(C[0:WARP_ROWS, 0:N])
            for ty in T.thread_binding(8, "threadIdx.y"):
                for tx in T.thread_binding(4, "threadIdx.x"):
                    T.evaluate(
                        T.cuda.func_call(
                            name,
                            T.address_of(C[0, 0]),
                            T.address_of(A[0, 0]),
                            B.access_ptr(UNTRACKED),
                            source_code=source,
                        )
                    )

    TensorIntrin.register(name, description, implementation, override=True)
    return name


def acc_intrin(
    unit: str, kv_tile: int, head_dim: int, dtype: str, *, overlap: bool = False
) -> str:
    """Register ``acc[16, head_dim] = acc * rescale + probs[16, kv_tile] * v_rows``.

    Parameters
    ----------
    unit : str
        ``wgmma`` or ``mma``.
    overlap : bool
        Whether the call returns once the product that an asynchronous :func:`dot_intrin` started
        before it is done, its own still running; :func:`probs_intrin` then waits for it.

    Returns
    -------
    str
        Name of the intrinsic.
    """
    name = f"prefill_acc_{unit}_n{head_dim}_k{kv_tile}_{dtype}" + ("_overlap" if overlap else "")
    source = _source(
        name,
        unit,
        dtype,
        columns=head_dim,
        depth=kv_tile,
        rows_are_depth=True,
        before="",
        waits="1" if overlap else "0",
    )

    K, N = kv_tile, head_dim

    @T.prim_func(s_tir=True)
    def description(a: T.handle, b: T.handle, r: T.handle, c: T.handle) -> None:
        A = T.match_buffer(a, (WARP_ROWS, K), dtype, offset_factor=1, scope=FRAGMENT)
        B = T.match_buffer(b, (1, N // 8, K // 8, 8, 8), dtype, offset_factor=1, scope=SHARED)
        R = T.match_buffer(r, (WARP_ROWS, 8), "float32", offset_factor=1, scope=FRAGMENT)
        C = T.match_buffer(c, (WARP_ROWS, N), "float32", offset_factor=1, scope=FRAGMENT)
        with T.sblock("root"):
            T.reads(
                C[0:WARP_ROWS, 0:N],
                R[0:WARP_ROWS, 0:8],
                A[0:WARP_ROWS, 0:K],
                B[0:1, 0 : N // 8, 0 : K // 8, 0:8, 0:8],
            )
            T.writes(C[0:WARP_ROWS, 0:N])
            for i, j, k in T.grid(WARP_ROWS, N, K):
                with T.sblock("acc"):
                    vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                    C[vi, vj] = C[vi, vj] * T.if_then_else(
                        vk == 0, R[vi, vj % 8], T.float32(1)
                    ) + T.cast(A[vi, vk], "float32") * T.cast(
                        B[0, vj // 8, vk // 8, vk % 8, vj % 8], "float32"
                    )

    @T.prim_func(s_tir=True)
    def implementation(a: T.handle, b: T.handle, r: T.handle, c: T.handle) -> None:
        A = T.match_buffer(a, (WARP_ROWS, K), dtype, offset_factor=1, scope=FRAGMENT)
        B = T.match_buffer(b, (1, N // 8, K // 8, 8, 8), dtype, offset_factor=1, scope=SHARED)
        R = T.match_buffer(r, (WARP_ROWS, 8), "float32", offset_factor=1, scope=FRAGMENT)
        C = T.match_buffer(c, (WARP_ROWS, N), "float32", offset_factor=1, scope=FRAGMENT)
        with T.sblock("root"):
            T.reads(
                C[0:WARP_ROWS, 0:N],
                R[0:WARP_ROWS, 0:8],
                A[0:WARP_ROWS, 0:K],
                B[0:1, 0 : N // 8, 0 : K // 8, 0:8, 0:8],
            )
            T.writes(C[0:WARP_ROWS, 0:N])
            for ty in T.thread_binding(8, "threadIdx.y"):
                for tx in T.thread_binding(4, "threadIdx.x"):
                    T.evaluate(
                        T.cuda.func_call(
                            name,
                            T.address_of(C[0, 0]),
                            T.address_of(A[0, 0]),
                            B.access_ptr(UNTRACKED),
                            T.address_of(R[0, 0]),
                            source_code=source,
                        )
                    )

    TensorIntrin.register(name, description, implementation, override=True)
    return name


_FENCE = '  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");\n'

_JOIN_LOADS = """\
  asm volatile("cp.async.commit_group;" ::: "memory");
  asm volatile("cp.async.wait_group {groups};" ::: "memory");
  __syncthreads();
"""

# What ordinary stores and cp.async wrote becomes visible to wgmma, which reads through a proxy.
_FENCE_PROXY = '  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");\n'



def _source(
    name: str,
    unit: str,
    dtype: str,
    *,
    columns: int,
    depth: int,
    rows_are_depth: bool,
    before: str,
    waits: str,
) -> str:
    """CUDA of a product; ``rows_are_depth`` if the rows of the tile in shared memory are summed."""
    rows = depth if rows_are_depth else columns
    # Bytes from one core matrix to the next along the rows, and along the columns, of the tile.
    along_rows, along_columns = _CORE, rows * 16
    write = {"wgmma": _wgmma, "mma": _mma}[unit]
    parameters = "float* c, void* a_, void* b_" + (", float* r" if rows_are_depth else "")
    rescale = ""
    if rows_are_depth:
        rescale = (
            "  #pragma unroll\n"
            f"  for (int i = 0; i < {columns // 2}; ++i) c[i] *= r[i & 2];\n"
        )
    body = write(
        PTX_TYPES[dtype], columns, depth, rows_are_depth, along_rows, along_columns, waits
    )
    return (
        f"\n__device__ __forceinline__ void {name}({parameters}) {{\n"
        "  unsigned* a = (unsigned*)a_;\n"
        f"{before}{rescale}{body}}}\n"
    )


def _wgmma(
    ptx: str,
    columns: int,
    depth: int,
    rows_are_depth: bool,
    along_rows: int,
    along_columns: int,
    waits: str,
) -> str:
    """``wgmma`` with its left operand in registers; each warp of a warpgroup gives 16 rows."""
    # PTX ISA, "Strides": without swizzle the leading dimension is that of the reduction for a
    # K-major tile, and that of the columns for an MN-major one.
    if rows_are_depth:
        leading, stride, step = along_rows, along_columns, 2 * along_rows
    else:
        leading, stride, step = along_columns, along_rows, 2 * along_columns
    count = columns // 2
    results = ", ".join(f"%{i}" for i in range(count))
    left = ", ".join(f"%{count + i}" for i in range(4))

    def product(index: str, accumulate: bool) -> str:
        constraint = "+f" if accumulate else "=f"
        outputs = ", ".join(f'"{constraint}"(c[{i}])' for i in range(count))
        return (
            '    asm volatile("{ .reg .pred add; setp.ne.b32 add, '
            f'{int(accumulate)}, 0; wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.{ptx}.{ptx} "\n'
            f'      "{{{results}}}, {{{left}}}, %{count + 4}, add, 1, 1, {int(rows_are_depth)}; }}"\n'
            f"      : {outputs}\n"
            f'      : "r"(a[{index}*4]), "r"(a[{index}*4+1]), "r"(a[{index}*4+2]),'
            f' "r"(a[{index}*4+3]),\n'
            f'        "l"(descriptor + (unsigned long long)({index} * {step >> 4})));\n'
        )

    pin = (
        "  #pragma unroll\n"
        f'  for (int i = 0; i < {count}; ++i) asm volatile("" : "+f"(c[i]) :: "memory");\n'
    )
    loop = "  #pragma unroll\n  for (int k = {first}; k < {last}; ++k)\n"
    # What a product that overwrites its result finds there is never read: no zeros are written.
    products = (
        pin + _FENCE + loop.format(first=0, last=depth // 16) + product("k", True)
        if rows_are_depth
        else _FENCE
        + product("0", False)
        + loop.format(first=1, last=depth // 16)
        + product("k", True)
    )
    wait = f'  asm volatile("wgmma.wait_group.sync.aligned {waits};" ::: "memory");\n' if waits else ""
    return (
        "  unsigned address = (unsigned)__cvta_generic_to_shared(b_);\n"
        "  unsigned long long descriptor = (unsigned long long)((address & 0x3FFFF) >> 4)"
        f" | ((unsigned long long){leading >> 4} << 16)"
        f" | ((unsigned long long){stride >> 4} << 32);\n"
        f"{products}"
        '  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");\n'
        f"{wait}{pin}"
    )


def _mma(
    ptx: str,
    columns: int,
    depth: int,
    rows_are_depth: bool,
    along_rows: int,
    along_columns: int,
    waits: str,
) -> str:
    """``mma.m16n8k16`` with ``ldmatrix``: two columns of core matrices at a time."""
    transposed = ".trans" if rows_are_depth else ""
    along_depth = along_rows if rows_are_depth else along_columns
    along_result = along_columns if rows_are_depth else along_rows
    zero = (
        ""
        if rows_are_depth
        else f"  #pragma unroll\n  for (int i = 0; i < {columns // 2}; ++i) c[i] = 0.0f;\n"
    )

    def product(first: int, low: str, high: str) -> str:
        results = ", ".join(f'"+f"(c[n*4+{first + i}])' for i in range(4))
        return (
            f'      asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.{ptx}.{ptx}.f32 '
            '{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"\n'
            f"        : {results}\n"
            '        : "r"(a[k*4]), "r"(a[k*4+1]), "r"(a[k*4+2]), "r"(a[k*4+3]),'
            f' "r"({low}), "r"({high}));\n'
        )

    return (
        f"{zero}"
        "  unsigned lane = threadIdx.y * 4 + threadIdx.x;\n"
        "  unsigned base = (unsigned)__cvta_generic_to_shared(b_) + (lane & 7) * 16"
        f" + ((lane >> 3) & 1) * {along_depth} + (lane >> 4) * {along_result};\n"
        "  #pragma unroll\n"
        f"  for (int k = 0; k < {depth // 16}; ++k) {{\n"
        "    #pragma unroll\n"
        f"    for (int n = 0; n < {columns // 8}; n += 2) {{\n"
        "      unsigned b0, b1, b2, b3;\n"
        f'      asm volatile("ldmatrix.sync.aligned.m8n8.x4{transposed}.shared.b16 '
        '{%0,%1,%2,%3}, [%4];"\n'
        '        : "=r"(b0), "=r"(b1), "=r"(b2), "=r"(b3)\n'
        f'        : "r"(base + k * {2 * along_depth} + n * {along_result}));\n'
        f"{product(0, 'b0', 'b1')}{product(4, 'b2', 'b3')}"
        "    }\n  }\n"
    )
