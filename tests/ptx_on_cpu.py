"""The PTX of the tensor intrinsics as calls of functions that do the same, for one CPU thread.

Tensor cores of float16 alone. What a copy brings is there at once, so that a missing wait does not
show; an address that the copy could not take ends the process.
"""

from __future__ import annotations

import re

#: What the calls below call; fibers of a warp meet in each that reads another lane's registers.
FUNCTIONS = r"""
typedef _Float16 half;
struct alignas(4) half2 { half x, y; };
struct alignas(8) half4 { half x, y, z, w; };
struct alignas(16) uint4 { uint x, y, z, w; };
struct Words { uint word[6]; };
static Words exchanged_words[2][1024];
static half __float2half_rn(float x) { return (half)x; }
static uint __cvta_generic_to_shared(const void* p) { return (const uchar*)p - buf_dyn_shmem_ptr; }
static const Words* exchange(const Words& own) {
  int self = current, turn = fibers[self].shuffles++ % 2;
  exchanged_words[turn][self] = own;
  stop(AT_SHUFFLE);
  return exchanged_words[turn] + (self & ~31);
}
static bool __any_sync(uint, bool value) {
  const Words* lanes = exchange({{value}});
  for (int lane = 0; lane < 32; ++lane) if (lanes[lane].word[0]) return true;
  return false;
}
static float ptx_ex2(float x) { return x < -126 ? 0 : exp2f(x); }
static void ptx_copy(uint address, const void* source, uint size, uint source_size) {
  if (address % size || (size_t)source % size) abort();
  memset(buf_dyn_shmem_ptr + address, 0, size);
  memcpy(buf_dyn_shmem_ptr + address, source, source_size);
}
static void ptx_ldmatrix(uint& a, uint& b, uint& c, uint& d, uint address, bool transposed) {
  int lane = current & 31;
  const Words* lanes = exchange({{address}});
  uint* words[] = {&a, &b, &c, &d};
  for (int matrix = 0; matrix < 4; ++matrix)
    for (int i = 0; i < 2; ++i) {
      int row = lane / 4, column = lane % 4 * 2 + i;
      if (transposed) { int kept = row; row = column; column = kept; }
      uint from = lanes[matrix * 8 + row].word[0] + column * 2;
      memcpy((uchar*)words[matrix] + i * 2, buf_dyn_shmem_ptr + from, 2);
    }
}
static float element(uint word, int i) {
  half value;
  memcpy(&value, (uchar*)&word + i * 2, 2);
  return value;
}
static void ptx_mma(
    float& c0, float& c1, float& c2, float& c3, uint a0, uint a1, uint a2, uint a3, uint b0,
    uint b1, int depth = 16) {
  int lane = current & 31;
  const Words* lanes = exchange({{a0, a1, a2, a3, b0, b1}});
  float* results[] = {&c0, &c1, &c2, &c3};
  for (int i = 0; i < 4; ++i)
    for (int k = 0; k < depth; ++k) {
      int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      uint left = lanes[row % 8 * 4 + k % 8 / 2].word[row / 8 + k / 8 * 2];
      uint right = lanes[column * 4 + k % 8 / 2].word[4 + k / 8];
      *results[i] += element(left, k % 2) * element(right, k % 2);
    }
}
"""

#: Of an instruction with its operands in their order: results first, as in a statement.
_COPY = r"cp\.async\.c[ag]\.shared\.global \[%0\], \[%1\], (?P<size>\d+)"
_LOAD = r"ldmatrix\.sync\.aligned\.m8n8\.x4"
_CALLS = (
    ("", ""),  # which keeps a value from the compiler
    (r"mov.u32 %0, %%laneid;", "{} = current & 31"),
    (r"ld.global.nc.b32 .*", "{0} = *({1})"),
    (r"ex2\.approx\.ftz\.f32 %0, %1;", "{} = ptx_ex2({})"),
    (r"rcp\.approx\.ftz\.f32 %0, %1;", "{} = 1 / ({})"),
    (r"fence\.proxy\.async\.shared::cta;", "(void)0"),
    (r"bar\.sync (?P<barrier>\d+), (?P<count>\d+);", "ptx_named({barrier}, {count})"),
    (rf"{_COPY};", "ptx_copy({}, {}, {size}, {size})"),
    (rf"{_COPY}, %2;", "ptx_copy({}, {}, {size}, {})"),
    (r"cp\.async\.(commit_group|wait_group \d);", "(void)0"),
    (rf"{_LOAD}\.shared\.b16 .*", "ptx_ldmatrix({}, {}, {}, {}, {}, false)"),
    (rf"{_LOAD}\.trans\.shared\.b16 .*", "ptx_ldmatrix({}, {}, {}, {}, {}, true)"),
    (
        r"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.f16\.f16\.f32 .*",
        "ptx_mma({}, {}, {}, {}, {}, {}, {}, {}, {}, {})",
    ),
    (
        r"mma\.sync\.aligned\.m16n8k8\.row\.col\.f32\.f16\.f16\.f32 .*",
        "ptx_mma({}, {}, {}, {}, {}, {}, 0, 0, {}, 0, 8)",
    ),
)

_STATEMENT = re.compile(r"asm(?: volatile)?\((?P<inside>(?:[^;\"]|\"[^\"]*\")*)\);")
_OPERAND = re.compile(r"\"[=+]?[a-z]\"\(")


def on_cpu(source: str) -> str:
    """CUDA source with calls of :data:`FUNCTIONS` in place of PTX."""
    return _STATEMENT.sub(_call, source)


def _call(statement: re.Match[str]) -> str:
    inside = statement["inside"]
    (instruction,) = re.findall(r"^\s*\"([^\"]*)\"", inside)
    for pattern, call in _CALLS:
        found = re.fullmatch(pattern, instruction)
        if found:
            return call.format(*_operands(inside), **found.groupdict()) + ";"
    raise AssertionError(f"what does {instruction} do?")


def _operands(text: str) -> list[str]:
    """The expressions of the operands."""
    return [_balanced(text[found.end() :]) for found in _OPERAND.finditer(text)]


def _balanced(text: str) -> str:
    """``text`` up to the parenthesis that was open before it."""
    depth = 1
    for index, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth == 0:
            return text[:index]
    raise AssertionError(f"unbalanced: {text}")
