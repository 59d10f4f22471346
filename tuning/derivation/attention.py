"""The online description: softmax carried from kv tile to kv tile, still unscheduled.

The recurrence that the passes find is that of Milakov and Gimelshein, "Online normalizer
calculation for softmax" (arXiv:1805.02867), tiled as in FlashAttention (arXiv:2205.14135). Carried
state is written as reductions over the kv tiles, so that every sblock is complete or a reduction
and each schedule primitive applies.
"""

from __future__ import annotations

import tvm

from ...workloads import PrefillShape, PrefillSpec, SymbolicShape, Tiles, plain_attention
from ...workloads.elementary import BUILT_IN, POLYNOMIALS, Elementary, elementary_of
from ...workloads.expressions import MAX_INIT
from .derive import derive_online, derive_text
from .naming import Names
from .tiling import Tiling

#: What the sblocks are called in the traces of committed records.
_NAMES = Names(
    {
        "row_tile": "attention",
        "first_half": "score_tile",
        "second_half": "value_tile",
        "weights_operand": "probs",
        "tile_acc": "tile_out",
    }
)

#: Heads outermost, then the batch.
_ORDER = (1, 0)


def online_attention(
    spec: PrefillSpec,
    shape: PrefillShape | SymbolicShape,
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
    fast = elementary_of(elementary)
    plain = plain_attention(spec, shape, BUILT_IN)["main"]
    tiling = Tiling(
        tiles.q_tile, tiles.kv_tile, tiles.operand_dtype, MAX_INIT, _ORDER, tiles.head_multiple
    )
    calls = {"exp2": fast.exp2, "log2": fast.log2}
    return tvm.IRModule({"main": derive_online(plain, tiling, calls, _NAMES)})


def online_text(spec: PrefillSpec, shape: PrefillShape | SymbolicShape) -> str:
    """The recurrence of :func:`online_attention` before it is tiled, for readers."""
    return derive_text(plain_attention(spec, shape, BUILT_IN)["main"], MAX_INIT, _NAMES)
