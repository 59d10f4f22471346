"""The online and the pipelined description: softmax carried from kv tile to kv tile, unscheduled.

The recurrence that the passes find is that of Milakov and Gimelshein, "Online normalizer
calculation for softmax" (arXiv:1805.02867), tiled as in FlashAttention (arXiv:2205.14135). Carried
state is written as reductions over the kv tiles, so that every sblock is complete or a reduction
and each schedule primitive applies.

The pipelined one is for tensor cores and software pipelines: every step is a direct child of the kv
loop, where the pipeline can order it; the carried output is rescaled and added to in one reduction,
which a matrix instruction accumulates in place; a scale is applied after the maximum, so that it
costs one fused multiply-add an element; and the maximum moves only where it must (:data:`SLACK`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import tvm

from ...workloads import (
    PackedShape,
    PrefillShape,
    PrefillSpec,
    SymbolicShape,
    Tiles,
    plain_attention,
)
from ...workloads.elementary import BUILT_IN, POLYNOMIALS, PTX, Elementary, elementary_of
from ...workloads.expressions import MAX_INIT
from .derive import Pipelining, derive_online, derive_pipelined, derive_text
from .emitting import Calls
from .naming import Names
from .slack import Slack
from .tiling import Tiling

#: What the sblocks are called in the traces of committed records.
_NAMES = Names(
    {
        "row_tile": "attention",
        "first_half": "score_tile",
        "second_half": "value_tile",
        "weights_operand": "probs",
        "tile_acc": "tile_out",
        "row_output": "out_rows",
        "row_sum_of_lanes": "whole_sum",
    }
)

#: Heads outermost, then the batch.
_ORDER = (1, 0)

#: How far a score may lie above the maximum that a row's weights are relative to, before this is
#: moved and what was summed up is rescaled: weights reach 2^8 and stay exact in 16 bits, and few
#: tiles rescale anything (as in FlashAttention-4).
SLACK = 8.0

#: The largest score, up or down, of a row that is not NaN. A weight is 2 to a difference of which
#: one side is rounded and the other is not: up to here it is off by a factor of 4 for all of a row
#: alike, which its sum takes out again; from 2^28 on, weights would overflow or vanish in 16 bits.
MAX_SCORE = 2.0**26


@dataclass(frozen=True)
class PipelinedTiles(Tiles):
    """What the pipelined description fixes before any schedule.

    Parameters
    ----------
    ring : int
        Key tiles kept at once, those computed with and those being loaded; and value tiles.
    staged_output : bool
        Whether the output is a tile first, which is then copied.
    aligned : bool
        Whether query tiles begin with the first row that is no padding, where padding comes first.
    """

    ring: int = 2
    staged_output: bool = False
    aligned: bool = False


def online_attention(
    spec: PrefillSpec,
    shape: PrefillShape | SymbolicShape | PackedShape,
    tiles: Tiles,
    elementary: Elementary | str = POLYNOMIALS,
) -> tvm.IRModule:
    """``plain_attention(spec, shape)`` tile by tile.

    Parameters
    ----------
    spec, shape
        The workload.
    tiles : Tiles
        What is fixed before any schedule.
    elementary : Elementary or str
        2^x and log2 in a form that the target computes fast, or the name of its kind.

    Returns
    -------
    IRModule
        With one PrimFunc ``main(q, k, v, valid_lens, output, lse)``; shapes as in
        :func:`~prefilltune.workloads.plain_attention`.
    """
    plain = plain_attention(spec, shape, BUILT_IN)["main"]
    tiling = _tiling(tiles, _ORDER)
    return tvm.IRModule({"main": derive_online(plain, tiling, _calls(elementary), _NAMES)})


def online_text(spec: PrefillSpec, shape: PrefillShape | SymbolicShape | PackedShape) -> str:
    """The recurrence of :func:`online_attention` before it is tiled, for readers."""
    return derive_text(plain_attention(spec, shape, BUILT_IN)["main"], MAX_INIT, _NAMES)


def pipelined_attention(
    spec: PrefillSpec,
    shape: PrefillShape | SymbolicShape | PackedShape,
    tiles: PipelinedTiles,
    elementary: Elementary | str = PTX,
) -> tvm.IRModule:
    """``plain_attention(spec, shape)`` tile by tile, every step of a kv tile side by side.

    Parameters
    ----------
    spec, shape
        The workload.
    tiles : PipelinedTiles
        What is fixed before any schedule.
    elementary : Elementary or str
        2^x and log2 in a form that the target computes fast, or the name of its kind.

    Returns
    -------
    IRModule
        With one PrimFunc ``main(q, k, v, valid_lens, output, lse)``; shapes as in
        :func:`~prefilltune.workloads.plain_attention`. Rows with a score beyond
        :data:`MAX_SCORE` are NaN.
    """
    plain = plain_attention(spec, shape, BUILT_IN)["main"]
    tiling = replace(_tiling(tiles), aligned=tiles.aligned)
    pipelining = Pipelining(tiles.ring, tiles.staged_output, Slack(SLACK, MAX_SCORE))
    calls = _calls(elementary)
    return tvm.IRModule({"main": derive_pipelined(plain, tiling, pipelining, calls, _NAMES)})


def _tiling(tiles: Tiles, order: tuple[int, ...] = ()) -> Tiling:
    return Tiling(
        tiles.q_tile,
        tiles.kv_tile,
        tiles.operand_dtype,
        MAX_INIT,
        order,
        tiles.head_multiple,
        shared=tiles.heads,
    )


def _calls(elementary: Elementary | str) -> Calls:
    """What stands for functions that plain calls."""
    fast = elementary_of(elementary)
    return {"exp2": fast.exp2, "log2": fast.log2, "tanh": fast.tanh}
