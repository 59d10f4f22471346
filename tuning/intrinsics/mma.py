"""CUDA of products by ``mma``, whose operands in shared memory come through ``ldmatrix``.

Addresses cost no instruction in a product's loops. Its tiles begin at multiples of 128 bytes, and
rows that are a multiple of eight apart have the same permutation: so a lane permutes once, takes
another column by an exclusive or, and another row as a constant offset.
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import indent

from .fragments import PTX_TYPES, WARP_ROWS, panel_width, swizzle_mask

#: Columns that one instruction computes of 16 rows, and what two 8 by 8 matrices sum over.
_COLUMNS, _DEPTH = 8, 16

# Lanes 0-7 give the rows of the first 8 by 8 matrix, the next eight those of the second, ...
# The first two matrices are 16 rows one below the other, the other two the 8 columns beside them.
_BELOW_FIRST = ("(lane & 15)", "(lane >> 4)")
# Or the first two are 8 rows with 16 columns, the other two the 8 rows below them.
_BESIDE_FIRST = ("(lane & 7) + (lane >> 4) * 8", "((lane >> 3) & 1)")


def mma_source(
    dtype: str,
    rows: int,
    columns: int,
    depth: int,
    q_tile: int | None,
    *,
    values: bool,
    at_once: int = _DEPTH,
) -> str:
    """The body of a product: ``c``, ``a_`` and ``b_`` are its result and its operands.

    Parameters
    ----------
    dtype : str
        Of the operands.
    rows : int
        That a warp computes; a multiple of 16.
    columns, depth : int
        Of the result, and what is summed over.
    q_tile : int, optional
        Rows of the left operand's tile in shared memory; it is in registers if absent.
    values : bool
        Whether the rows of the right operand's tile are what is summed over. If not, they are the
        result's columns, and the result is overwritten.
    at_once : int
        What one instruction sums over: 16, or 8 as before sm_80.
    """
    stacked, pairs = rows // WARP_ROWS, columns // (2 * _COLUMNS)
    count = rows * columns // 32
    zero = "" if values else f"  #pragma unroll\n  for (int i = 0; i < {count}; ++i) c[i] = 0.0f;\n"
    right_width = panel_width(columns if values else depth)
    right_rows = depth if values else columns
    at, beside = ("k * 16", "n * 16") if values else ("n * 16", "k * 16")
    right = _tile("b", right_width, _BELOW_FIRST if values else _BESIDE_FIRST)
    load_right = _load("b", right_width, right_rows, at, beside, transposed=values)
    if q_tile is None:
        left, load_left = _WORDS.format(per_row=depth // 4), ""
        operands = [f"a(m, k * 4 + {i})" for i in range(4)]
    else:
        width = panel_width(depth)
        left = _tile("a", width, _BELOW_FIRST)
        load = _load("a", width, q_tile, "m * 16", "k * 16", transposed=False, result="a[m]")
        load_left = f"unsigned a[{stacked}][4];\n{_loop('m', stacked, load)}"
        operands = [f"a[m][{i}]" for i in range(4)]
    multiply = "".join(
        _multiply(
            dtype, at_once, f"m * {columns // 2} + n * 8 + {half * 4}", left_words, right_words
        )
        for half in range(2)
        for left_words, right_words in _parts(operands, half, at_once)
    )
    of_pair = f"unsigned b[4];\n{load_right}{_loop('m', stacked, multiply)}"
    of_depth = f"{load_left}{_loop('n', pairs, of_pair)}"
    lane = "unsigned lane = threadIdx.y * 4 + threadIdx.x;\n"
    body = f"{lane}{left}{right}{_loop('k', depth // _DEPTH, of_depth)}"
    return zero + indent(body, "  ")


def _parts(
    operands: list[str], half: int, at_once: int
) -> list[tuple[Sequence[str], Sequence[str]]]:
    """Operands of the instructions for 8 columns: one, or one for each half of the depth."""
    right = [f"b[{half * 2}]", f"b[{half * 2 + 1}]"]
    if at_once == _DEPTH:
        return [(operands, right)]
    return [(operands[:2], right[:1]), (operands[2:], right[1:])]


# Two elements of a fragment. Read through a pointer to another type they would be undefined.
_WORDS = """\
auto a = [&](int m, int i) {{
  unsigned word;
  memcpy(&word, (const char*)a_ + 4 * (m * {per_row} + i), 4);
  return word;
}};
"""


def _tile(name: str, width: int, lanes: tuple[str, str]) -> str:
    """Where a lane's row begins in a tile's first panel, its own column permuted into it."""
    (row, column), begin = lanes, f"{name}_begin"
    address = f"(unsigned)__cvta_generic_to_shared({name}_) + ({row}) * {width * 2}"
    return (
        f"unsigned {begin} = {address};\n"
        f"{begin} ^= (({begin} >> 3) & {swizzle_mask(width)}) ^ {column} * 16;\n"
    )


def _load(
    name: str, width: int, rows: int, row: str, column: str, *, transposed: bool, result: str = ""
) -> str:
    """Four matrices of a tile at a row and a column, which are multiples of 16."""
    place = (
        f"({name}_begin ^ ({column}) % {width} * 2) + ({row}) * {width * 2}"
        f" + ({column}) / {width} * {rows * width * 2}"
    )
    results = ", ".join(f'"=r"({result or name}[{i}])' for i in range(4))
    kind = "x4.trans" if transposed else "x4"
    return (
        f'asm volatile("ldmatrix.sync.aligned.m8n8.{kind}.shared.b16 {{%0,%1,%2,%3}}, [%4];"\n'
        f"  : {results}\n"
        f'  : "r"({place}));\n'
    )


def _multiply(dtype: str, at_once: int, at: str, left: Sequence[str], right: Sequence[str]) -> str:
    """One instruction, which adds to four elements of the result."""
    ptx = PTX_TYPES[dtype]
    results = ", ".join(f'"+f"(c[{at} + {i}])' for i in range(4))
    operands = ", ".join(f'"r"({each})' for each in (*left, *right))
    numbers = [f"%{4 + i}" for i in range(len(left) + len(right))]
    lefts, rights = ",".join(numbers[: len(left)]), ",".join(numbers[len(left) :])
    return (
        f'asm volatile("mma.sync.aligned.m16n8k{at_once}.row.col.f32.{ptx}.{ptx}.f32 '
        f'{{%0,%1,%2,%3}}, {{{lefts}}}, {{{rights}}}, {{%0,%1,%2,%3}};"\n'
        f"  : {results}\n"
        f"  : {operands});\n"
    )


def _loop(variable: str, extent: int, body: str) -> str:
    head = f"for (int {variable} = 0; {variable} < {extent}; ++{variable})"
    return f"#pragma unroll\n{head} {{\n{indent(body, '  ')}}}\n"
