"""A table in shared memory that names things by how much they are, the most first.

Every block of a grid makes the same one.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T

#: Things that a table holds, and groups that they may be of.
TABLE = 384

# Things are told apart by their level: 1 more than how much a thing is, as few are so much that
# levels stand for eight numbers each.
_EXACT, _STEP, _MOST = 96, 8, 126

# A table holds the level of each thing in a byte, of which one bit more is set; the group and, at a
# place of the ranking, the thing in 16 bits.
_GROUPS, _RANKED = TABLE, 3 * TABLE
_BIT = 0x80

#: 32-bit words of a table.
TABLE_WORDS = 512

_THREAD = "(threadIdx.z * 8 + threadIdx.y) * 4 + threadIdx.x"

_COUNT = f"""
__device__ __forceinline__ void prefill_rank_count(void* table, int thing, int count, int group) {{
  int more = min({_EXACT} + (count - {_EXACT + 1 - _STEP}) / {_STEP}, {_MOST - 1});
  ((unsigned char*)table)[thing] = (count > {_EXACT} ? more : count) + 1 | {_BIT};
  ((unsigned short*)((char*)table + {_GROUPS}))[thing] = group;
}}
"""

_USE = f"""
__device__ __forceinline__ void prefill_rank_use(void* table, int value) {{
  ((unsigned char*)table + {_RANKED})[{_THREAD}] = value;
}}
"""

# Of four levels at once: the bit more stays set in a byte that is as much as the level that is
# subtracted, or more.
# Of a number of things that it knows, the compiler unrolls all comparisons, and ptxas (CUDA 13.0)
# then gives up on registers of warps in the whole kernel: a tenth to a sixth more instructions for
# each tile of keys. So it must not know.
_RANK = f"""
__device__ __forceinline__ int prefill_rank(void* table, int things, int threads) {{
  unsigned char* levels = (unsigned char*)table;
  unsigned short* ranked = (unsigned short*)(levels + {_RANKED});
  int thing = {_THREAD}, some = 0;
  asm("" : "+r"(things));
  int whole = (things + 15) / 16;
  if (thing < whole * 16 - things) levels[things + thing] = {_BIT};
  __syncthreads();
  for (int before = 0; before < things; before += threads, thing += threads) {{
    unsigned level = thing < things ? levels[thing] - {_BIT} : 1;
    if (thing < things) {{
      unsigned own = level * 0x01010101u, more = own + 0x01010101u, bits = 0;
      for (int part = 0; part < whole; ++part) {{
        uint4 four = ((const uint4*)levels)[part];
        unsigned least = part < thing / 16 ? own : more;
        bits = __dp4a(four.x - least & 0x80808080u, 0x01010101u, bits);
        bits = __dp4a(four.y - least & 0x80808080u, 0x01010101u, bits);
        bits = __dp4a(four.z - least & 0x80808080u, 0x01010101u, bits);
        bits = __dp4a(four.w - least & 0x80808080u, 0x01010101u, bits);
      }}
      uint4 four = ((const uint4*)levels)[thing / 16];
      unsigned words[] = {{four.x, four.y, four.z, four.w}};
      #pragma unroll
      for (int word = 0; word < 4; ++word) {{
        unsigned earlier = (1ull << 8 * min(max(thing % 16 - 4 * word, 0), 4)) - 1;
        unsigned equal = words[word] - own & ~(words[word] - more);
        bits = __dp4a(equal & earlier & 0x80808080u, 0x01010101u, bits);
      }}
      ranked[bits / {_BIT}] = thing;
    }}
    some += __syncthreads_count(level > 1);
  }}
  return some;
}}
"""

_AT = f"""
__device__ __forceinline__ int prefill_ranked(const void* table, int rank) {{
  return ((const unsigned short*)((const char*)table + {_RANKED}))[rank];
}}
"""

_GROUP = f"""
__device__ __forceinline__ int prefill_rank_group(const void* table, int thing) {{
  return ((const unsigned short*)((const char*)table + {_GROUPS}))[thing];
}}
"""


# As many threads as the power of two that groups are no more than, or as the block has, begin with
# a group each; where there are more threads, they share its things.
_SPREAD = """
__device__ __forceinline__ int prefill_rank_spread(int groups, int threads) {
  int bits = groups > 1 ? 32 - __clz(groups - 1) : 0;
  return min(bits, 31 - __clz(threads));
}
"""


def spread(groups: Any, threads: int) -> Any:
    """A call that gives the bits of a thread's number which tell its group, int32.

    The others tell which of the threads of that group it is. Threads of a block are given as a
    number: how it was launched would have to be fetched first.
    """
    return T.cuda.func_call(
        "prefill_rank_spread", groups, threads, source_code=_SPREAD, return_type="int32"
    )


def count_thing(table: Any, thing: Any, count: Any, group: Any) -> Any:
    """A call by which one thread says how much a thing is, and of which group, or 0.

    Among things that are as much, the first is the most.
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


def rank(table: Any, things: Any, threads: int) -> Any:
    """A call by which all threads of a block, as many as are said, rank what was counted.

    They meet in it.

    Returns
    -------
    Call
        How many things are more than nothing: the first ones of the ranking.
    """
    return T.cuda.func_call(
        "prefill_rank", table, things, threads, source_code=_RANK, return_type="int32"
    )


def ranked(table: Any, place: Any) -> Any:
    """A call that gives the thing at a place of the ranking."""
    return T.cuda.func_call("prefill_ranked", table, place, source_code=_AT, return_type="int32")
