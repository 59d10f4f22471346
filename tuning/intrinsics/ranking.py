"""A table in shared memory that names things by how much they are, the most first.

Every block of a grid makes the same one.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

#: Things that a table holds, and groups that they may be of; as many as eight at a time are read.
TABLE = 336

#: 32-bit words of a table: how much each thing is, and their ranking, of 16 bits each.
TABLE_WORDS = 512

# A thing's key is how much it is, its group, and its number from behind, each of so many bits but
# the first: keys are compared, and no two are equal.
_BITS = 9
_MASK = (1 << _BITS) - 1
_MOST = (1 << 31 - 2 * _BITS) - 1

_COUNT = f"""
__device__ __forceinline__ void prefill_rank_count(void* table, int thing, int count, int group) {{
  ((int*)table)[thing] = min(count, {_MOST}) << {2 * _BITS} | group << {_BITS} | ({_MASK} - thing);
}}
"""

_USE = f"""
__device__ __forceinline__ void prefill_rank_use(void* table, int value) {{
  int thread = (threadIdx.z * 8 + threadIdx.y) * 4 + threadIdx.x;
  ((int*)table)[{TABLE} + thread % {TABLE_WORDS - TABLE}] = value;
}}
"""

# Of a number of things that it knows, the compiler unrolls all comparisons, and ptxas (CUDA 13.0)
# then gives up on registers of warps in the whole kernel: a tenth to a sixth more instructions for
# each tile of keys. So it must not know.
_RANK = f"""
__device__ __forceinline__ int prefill_rank(void* table, int things) {{
  int* keys = (int*)table;
  unsigned short* ranked = (unsigned short*)(keys + {TABLE});
  int threads = blockDim.x * blockDim.y * blockDim.z, some = 0;
  int thing = (threadIdx.z * 8 + threadIdx.y) * 4 + threadIdx.x;
  asm("" : "+r"(things));
  int whole = (things + 7) / 8 * 8;
  if (thing < whole - things) keys[things + thing] = -1;
  __syncthreads();
  for (int before = 0; before < things; before += threads, thing += threads) {{
    int mine = thing < things ? keys[thing] : 0;
    if (thing < things) {{
      int rank = 0;
      for (int first = 0; first < whole; first += 8) {{
        #pragma unroll
        for (int other = 0; other < 8; ++other) rank += (uint)(mine - keys[first + other]) >> 31;
      }}
      ranked[rank] = thing;
    }}
    some += __syncthreads_count(mine >= {1 << 2 * _BITS});
  }}
  return some;
}}
"""

_AT = f"""
__device__ __forceinline__ int prefill_ranked(const void* table, int rank) {{
  return ((const unsigned short*)((const int*)table + {TABLE}))[rank];
}}
"""

_GROUP = f"""
__device__ __forceinline__ int prefill_rank_group(const void* table, int thing) {{
  return ((const int*)table)[thing] >> {_BITS} & {_MASK};
}}
"""


def count_thing(table: Any, thing: Any, count: Any, group: Any) -> Any:
    """A call by which one thread says how much a thing is, and of which group, or 0.

    Among things that are as much, those of the last group are the most; of one group, the first.
    """
    return T.cuda.func_call("prefill_rank_count", table, thing, count, group, source_code=_COUNT)


def group_of(table: Any, thing: Any) -> Any:
    """A call that gives the group of a thing."""
    return T.cuda.func_call(
        "prefill_rank_group", table, thing, source_code=_GROUP, return_type="int32"
    )


def use(table: Any, value: Any) -> Any:
    """A call that does something with a value of each thread, before anything is ranked."""
    return T.cuda.func_call("prefill_rank_use", table, value, source_code=_USE)


def rank(table: Any, things: Any) -> Any:
    """A call by which all threads of a block, who meet in it, rank what was counted.

    Returns
    -------
    Call
        How many things are more than nothing: the first ones of the ranking.
    """
    return T.cuda.func_call("prefill_rank", table, things, source_code=_RANK, return_type="int32")


def ranked(table: Any, place: Any) -> Any:
    """A call that gives the thing at a place of the ranking."""
    return T.cuda.func_call("prefill_ranked", table, place, source_code=_AT, return_type="int32")
