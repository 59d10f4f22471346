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
__device__ __forceinline__ void prefill_rank(void* table, int things) {{
  __syncthreads();
  int* counts = (int*)table;
  int threads = blockDim.x * blockDim.y * blockDim.z;
  for (int thing = (threadIdx.z * 8 + threadIdx.y) * 4 + threadIdx.x; thing < things;
       thing += threads) {{
    int mine = counts[thing], rank = 0;
    for (int other = 0; other < things; ++other) {{
      int theirs = counts[other];
      rank += theirs > mine || (theirs == mine && other < thing);
    }}
    counts[{TABLE} + rank] = thing;
  }}
  __syncthreads();
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


def rank(table: Any, things: Any) -> Any:
    """A call by which all threads of a block rank what was counted; it meets them twice."""
    return T.cuda.func_call("prefill_rank", table, things, source_code=_RANK)


def ranked(table: Any, place: Any) -> Any:
    """A call that gives the thing at a place of the ranking."""
    return T.cuda.func_call("prefill_ranked", table, place, source_code=_AT, return_type="int32")
