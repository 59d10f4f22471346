"""Running generated CUDA source on the CPU: a check of schedules where there is no GPU.

Warps, and threads of a warp, take turns in a chosen order, so that a missing barrier shows as a
wrong result.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ptx_on_cpu import on_cpu
from threads_on_cpu import PRELUDE, KernelText, compiled, tensor_of

#: Who runs first between two barriers, for warps and for threads of a warp.
ORDERS = range(4)

_DRIVER = r"""
static bool run_warp(int warp, bool backwards) {
  do {
    for (int i = 0; i < 32; ++i) go_on(warp * 32 + (backwards ? 31 - i : i));
  } while (all_at(warp * 32, 32, AT_SHUFFLE));
  return all_at(warp * 32, 32, AT_BARRIER) || all_at(warp * 32, 32, DONE);
}
static bool run_block(int warps, int order) {
  begin(warps * 32, thread);
  do {
    for (int i = 0; i < warps; ++i)
      if (!run_warp(order & 1 ? warps - 1 - i : i, order & 2)) return false;
  } while (all_at(0, warps * 32, AT_BARRIER));
  return all_at(0, warps * 32, DONE);
}
extern "C" int run(void** given, int x, int y, int z, int warps, int shared_bytes, int order) {
  GIVEN
  return run_blocks({x, y, z}, warps, shared_bytes, order);
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
    text = KernelText.of(source)
    places = {name: place for place, name in enumerate(text.arguments)}
    given = " ".join(
        f"{name} = ({type_})given[{places[tensor_of(name)]}];" for name, type_ in text.types.items()
    )
    driver = _DRIVER.replace("GIVEN", given)
    run = compiled(PRELUDE + on_cpu(text.functions) + text.kernel + text.thread + driver, folder)

    def kernel(*arguments: np.ndarray, order: int) -> None:
        pointers = (ctypes.c_void_p * len(arguments))(*(each.ctypes.data for each in arguments))
        assert run(pointers, *grid, warps, shared_bytes, order), "threads of a block part ways"

    return kernel
