"""A ring of tiles in shared memory that the bulk copy engine fills (TMA, sm_90 and later).

Each slot of a ring has two barriers: one says that its tile has arrived, the other that every warp
has done with it (PTX ISA, "Asynchronous copy" and "mbarrier"). One thread of a block starts all
copies. Tiles lie in the panels of :func:`~.fragments.panel_width`, which are the engine's own.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

from .fragments import panel_width

#: Bytes of the two barriers of a slot.
SLOT_BYTES = 16

#: CUDA's names of the permutations of a panel (``CUtensorMapSwizzle``), by its columns.
SWIZZLES = {64: 3, 32: 2, 16: 1}

_FIRST = "threadIdx.x + threadIdx.y + threadIdx.z == 0"
_ADDRESS = "(unsigned)__cvta_generic_to_shared"
_WAIT = """\
    unsigned done;
    do {{
      asm volatile("{{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; "
                   "selp.u32 %0, 1, 0, p; }}" : "=r"(done) : "r"({barrier}), "r"({parity})
                   : "memory");
    }} while (!done);
"""

_BEGIN = f"""
__device__ __forceinline__ void prefill_ring_begin(void* barriers, int slots, int warps) {{
  if ({_FIRST}) {{
    unsigned slot = {_ADDRESS}(barriers);
    for (int i = 0; i < slots; ++i, slot += {SLOT_BYTES}) {{
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" :: "r"(slot) : "memory");
      asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(slot + 8), "r"(warps)
                   : "memory");
    }}
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  }}
}}
"""

_PREFETCH = f"""
__device__ __forceinline__ void prefill_ring_prefetch(unsigned long long map) {{
  if ({_FIRST}) asm volatile("prefetch.tensormap [%0];" :: "l"(map) : "memory");
}}
"""

_LOAD = """
__device__ __forceinline__ void {name}(
    void* barriers, int slot, int turn, void* tile, unsigned long long map, int left, int row,
    int head, int batch) {{
  {only}{{
    int some = min(left, {own_rows});
    unsigned arrived = {address}(barriers) + {slot_bytes} * slot;
    if (turn > 0) {{
{wait}    }}
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], {bytes};" :: "r"(arrived)
                 : "memory");
    unsigned panel = {address}(tile);
    for (int column = 0; column < {columns}; column += {width}, panel += {panel_bytes})
      asm volatile("cp.async.bulk.tensor.{axes}d.shared::cluster.global.mbarrier::complete_tx"
                   "::bytes [%0], [%1, {{{coordinates}}}], [%2];"
                   :: "r"(panel), "l"(map), "r"(arrived), "r"(column), "r"(head),
                      "r"({own_rows} - some), "r"(row + some), "r"(batch) : "memory");
  }}
{meet}}}
"""

_ARRIVED = f"""
__device__ __forceinline__ void prefill_ring_arrived(void* barriers, int slot, int turn) {{
    unsigned arrived = {_ADDRESS}(barriers) + {SLOT_BYTES} * slot;
{_WAIT.format(barrier="arrived", parity="turn & 1")}}}
"""

_FREE = f"""
__device__ __forceinline__ void prefill_ring_free(void* barriers, int slot, int turn) {{
  if (turn > 0) {{
    unsigned freed = {_ADDRESS}(barriers) + {SLOT_BYTES} * slot + 8;
{_WAIT.format(barrier="freed", parity="(turn - 1) & 1")}  }}
}}
"""

_FILLED = f"""
__device__ __forceinline__ void prefill_ring_filled(void* barriers, int slot) {{
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];"
               :: "r"({_ADDRESS}(barriers) + {SLOT_BYTES} * slot) : "memory");
}}
"""

_DONE = f"""
__device__ __forceinline__ void prefill_ring_done(void* barriers, int slot) {{
  if (threadIdx.x + threadIdx.y == 0)
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];"
                 :: "r"({_ADDRESS}(barriers) + {SLOT_BYTES} * slot + 8) : "memory");
}}
"""


def begin_rings(barriers: Any, slots: int, warps: int) -> Any:
    """A call that makes the barriers of ``slots`` slots which ``warps`` warps read."""
    return T.cuda.func_call("prefill_ring_begin", barriers, slots, warps, source_code=_BEGIN)


def prefetch_map(map_: Any) -> Any:
    """A call that reads a tensor map before a copy needs it."""
    return T.cuda.func_call("prefill_ring_prefetch", map_, source_code=_PREFETCH)


def load_tile(
    barriers: Any,
    slot: Any,
    turn: Any,
    tile: Any,
    map_: Any,
    left: Any,
    place: Any,
    rows: int,
    columns: int,
    *,
    heads: int = 1,
    alone: bool = False,
) -> Any:
    """A call that starts to fill a slot, once every warp has done with what it held.

    Parameters
    ----------
    slot, turn : PrimExpr
        Which slot, and how many tiles it has held before.
    tile : PrimExpr
        Pointer to the slot's tile ``[rows, columns]`` of a two-byte dtype.
    map_ : PrimExpr
        Pointer to a tensor map whose rows have two coordinates (``pipeline/tensor_maps.py``).
    left : PrimExpr
        How many rows are to be copied, from the first one on; all others become zeros.
    place : tuple[PrimExpr, PrimExpr, PrimExpr]
        First row, head and, unless sequences are packed, batch; 0 or more.
    heads : int
        Neighbouring ones whose rows the tile has, so many less of each.
    alone : bool
        Whether one thread calls it, and not all threads of a block.
    """
    width = panel_width(columns)
    row, head, *batch = place
    axes = 4 + len(batch)
    kinds = ["packed"] * (not batch) + [f"of{heads}"] * (heads > 1) + ["alone"] * alone
    name = "_".join([f"prefill_ring_load_{rows}x{columns}", *kinds])
    source = _LOAD.format(
        name=name,
        only="" if alone else f"if ({_FIRST}) ",
        meet="" if alone else "  __syncwarp();\n",
        address=_ADDRESS,
        slot_bytes=SLOT_BYTES,
        wait=_WAIT.format(barrier="arrived + 8", parity="(turn - 1) & 1"),
        bytes=rows * columns * 2,
        columns=columns,
        width=width,
        panel_bytes=rows * width * 2,
        own_rows=rows // heads,
        axes=axes,
        coordinates=", ".join(f"%{3 + axis}" for axis in range(axes)),
    )
    whole = (left, row, head, *(batch or [0]))
    return T.cuda.func_call(name, barriers, slot, turn, tile, map_, *whole, source_code=source)


def arrived(barriers: Any, slot: Any, turn: Any) -> Any:
    """A call that waits until the slot's tile is there."""
    return T.cuda.func_call("prefill_ring_arrived", barriers, slot, turn, source_code=_ARRIVED)


def free(barriers: Any, slot: Any, turn: Any) -> Any:
    """A call that waits until every warp has done with what the slot held."""
    return T.cuda.func_call("prefill_ring_free", barriers, slot, turn, source_code=_FREE)


def filled(barriers: Any, slot: Any) -> Any:
    """A call by which one thread lets others go on as if a slot's tile were there."""
    return T.cuda.func_call("prefill_ring_filled", barriers, slot, source_code=_FILLED)


def done(barriers: Any, slot: Any) -> Any:
    """A call by which a warp says that it has read the slot's tile."""
    return T.cuda.func_call("prefill_ring_done", barriers, slot, source_code=_DONE)
