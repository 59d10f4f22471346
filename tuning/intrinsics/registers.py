"""Registers that one warpgroup of a block leaves to the others (``setmaxnreg``, sm_90a)."""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

#: The register file of a multiprocessor, and what one thread may have of it.
REGISTERS, THREAD_REGISTERS = 65536, 255

#: The fewest that a thread can be left with, and what counts of registers are multiples of.
FEWEST, _UNIT = 24, 8

_SET = """
__device__ __forceinline__ void {name}() {{
  asm volatile("setmaxnreg.{direction}.sync.aligned.u32 {count};" ::: "memory");
}}
"""


def begun_with(blocks: int, warpgroups: int) -> int:
    """What each thread of a block has before any leaves some, with one more warpgroup.

    An instruction with more operands does not compile, however many threads take later.
    """
    return _rounded(min(REGISTERS // (blocks * 128 * (warpgroups + 1)), THREAD_REGISTERS))


def left_over(blocks: int, warpgroups: int) -> int:
    """What each thread can have where one more warpgroup of a block keeps :data:`FEWEST`.

    Parameters
    ----------
    blocks : int
        On a multiprocessor.
    warpgroups : int
        That compute, of a block.
    """
    pool = begun_with(blocks, warpgroups) * (warpgroups + 1)
    return _rounded(min((pool - FEWEST) // warpgroups, THREAD_REGISTERS))


def take(count: int) -> Any:
    """A call of all threads of a warpgroup, which have as many registers thereafter."""
    return _call("inc", count)


def leave() -> Any:
    """A call of all threads of a warpgroup, which have the fewest registers thereafter."""
    return _call("dec", FEWEST)


def _call(direction: str, count: int) -> Any:
    name = f"prefill_registers_{direction}_{count}"
    source = _SET.format(name=name, direction=direction, count=count)
    return T.cuda.func_call(name, source_code=source)


def _rounded(count: int) -> int:
    return count // _UNIT * _UNIT
