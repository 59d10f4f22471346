"""Tiles of queries without keys are cleared at once, by blocks that do nothing else for them.

What such a tile gives are constants: zeros, and the LSE of a row without keys. They need no shared
memory and no barrier. The heads of a sequence clear the same rows, all of which lie side by side in
memory, so that each head takes an equal share of these, and threads write as much as they can at
once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...workloads import numpy_dtype
from ..intrinsics.filling import fill
from .annotations import LOADS, PRODUCER
from .leaving import skipped, within_blocks
from .steps import is_annotated
from .without_keys import constants


def cleared_early(stmt: Any) -> Any:
    """Loops bound to blocks, in which a tile without keys is cleared, and the next one is next.

    A tile stays as it is where it is skipped anyway, where a warpgroup of its own sees to it, and
    where results are no rows of a head.
    """
    from tvm import s_tir

    def change(part: Any) -> Any:
        return _cleared(part) if isinstance(part, s_tir.SBlock) else None

    return within_blocks(stmt, change)


def _cleared(block: Any) -> Any:
    """The sblock of a tile, with a way out."""
    from tvm import s_tir, tirx

    stmts = list(block.body.seq) if isinstance(block.body, tirx.SeqStmt) else []
    loops: list[Any] = [each for each in stmts if is_annotated(each, LOADS)]
    if len(loops) != 1 or PRODUCER in loops[0].annotations or any(map(skipped, stmts)):
        return block
    known, tile = constants(stmts), block.iter_vars[-1]
    fills = [_fill(region, known, tile) for region in block.writes]
    if any(each is None for each in fills):
        return block
    go_on = tirx.Evaluate(tirx.op.continue_loop())
    clear = tirx.IfThenElse(loops[0].extent <= 0, tirx.SeqStmt([*fills, go_on]), None)
    bound = sum(isinstance(each, tirx.Bind) for each in stmts)
    return s_tir.SBlock(
        block.iter_vars, block.reads, block.writes, block.name_hint,
        tirx.SeqStmt([*stmts[:bound], clear, *stmts[bound:]]), block.init, block.alloc_buffers,
        block.match_buffers, block.annotations,
    )  # fmt: skip


def _fill(region: Any, known: Mapping[Any, float], tile: Any) -> Any:
    """What clears a head's share of the rows of a tile; None where it has none."""
    from tvm import tirx
    from tvm.tirx.analysis import undefined_vars

    buffer, ranges = region.source, region.region
    if buffer not in known or not _is_of_a_head(buffer, ranges):
        return None
    sequence, rows, head, *_ = ranges
    if not (_is(tile.dom.extent, 1) or tile.var in undefined_vars(rows.min)):
        return None  # which rows a tile has is known within it alone
    element = np.array(known[buffer], numpy_dtype(buffer.dtype))
    row_bytes = math.prod(int(each) for each in buffer.shape[3:]) * element.itemsize
    width = math.gcd(16, row_bytes)
    count: Any = tirx.min(rows.extent, buffer.shape[1] - rows.min) * (row_bytes // width)
    first = buffer[(sequence.min, rows.min, *(0 for _ in buffer.shape[2:]))]
    word = int.from_bytes((element.tobytes() * 4)[:4], "little")
    return tirx.Evaluate(fill(tirx.address_of(first), head.min * count, count, width, word))


def _is_of_a_head(buffer: Any, ranges: Any) -> bool:
    """Whether a region is rows ``[sequence, rows, head]`` of one head, of all their elements."""
    if len(ranges) < 3:
        return False
    sequence, _, head, *elements = (each.extent for each in ranges)
    whole = zip(elements, buffer.shape[3:], strict=True)
    return _is(sequence, 1) and _is(head, 1) and all(_is(each, size) for each, size in whole)


def _is(extent: Any, size: Any) -> bool:
    from tvm import tirx

    return isinstance(extent, tirx.IntImm) and extent.value == int(size)
