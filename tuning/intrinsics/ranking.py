"""A table in shared memory that names things by how much they are, the most first.

Every block of a grid makes the same one.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

#: Things that a table holds, and groups that they may be of.
TABLE = 256

#: 32-bit words of a table: how much each thing is, and their ranking.
TABLE_WORDS = 2 * TABLE

_COUNT = """
__device__ __forceinline__ void prefill_rank_count(void* table, int thing, int count) {
  ((int*)table)[thing] = count;
}
"""

_RANK = f"""
__device__ __forceinline__ int prefill_rank(void* table, int things, int least) {{
  __syncthreads();
  int* counts = (int*)table;
  int threads = blockDim.x * blockDim.y * blockDim.z, some = 0;
  int thing = (threadIdx.z * 8 + threadIdx.y) * 4 + threadIdx.x;
  for (int before = 0; before < things; before += threads, thing += threads) {{
    int mine = thing < things ? counts[thing] : 0;
    if (thing < things) {{
      int rank = 0;
      #pragma unroll 8
      for (int other = 0; other < things; ++other) {{
        int theirs = counts[other];
        rank += theirs > mine || (theirs == mine && other < thing);
      }}
      counts[{TABLE} + rank] = thing;
    }}
    some += __syncthreads_count(mine >= least);
  }}
  return some;
}}
"""

_AT = f"""
__device__ __forceinline__ int prefill_ranked(const void* table, int rank) {{
  return ((const int*)table)[{TABLE} + rank];
}}
"""

_GROUP = f"""
__device__ __forceinline__ int prefill_rank_group(const void* table, int thing) {{
  return ((const int*)table)[thing] % {TABLE};
}}
"""


def of_group(count: Any, group: Any) -> Any:
    """How much a thing is that is of a group; among equals, that of the last group is the most."""
    return count * TABLE + group


def count_thing(table: Any, thing: Any, count: Any) -> Any:
    """A call by which one thread says how much a thing is."""
    return T.cuda.func_call("prefill_rank_count", table, thing, count, source_code=_COUNT)


def group_of(table: Any, thing: Any) -> Any:
    """A call that gives the group of a thing that was counted as :func:`of_group`."""
    return T.cuda.func_call(
        "prefill_rank_group", table, thing, source_code=_GROUP, return_type="int32"
    )


def rank(table: Any, things: Any, *, grouped: bool) -> Any:
    """A call by which all threads of a block, who meet in it, rank what was counted.

    Parameters
    ----------
    grouped : bool
        Whether it was counted as :func:`of_group`.

    Returns
    -------
    Call
        How many things are more than nothing: the first ones of the ranking.
    """
    least = TABLE if grouped else 1
    return T.cuda.func_call(
        "prefill_rank", table, things, least, source_code=_RANK, return_type="int32"
    )


def ranked(table: Any, place: Any) -> Any:
    """A call that gives the thing at a place of the ranking."""
    return T.cuda.func_call("prefill_ranked", table, place, source_code=_AT, return_type="int32")
