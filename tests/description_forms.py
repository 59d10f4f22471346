"""A spec's descriptions: the plain one, and the forms that are derived from it."""

from __future__ import annotations

from functools import partial

from prefilltune.tuning.derivation import (
    PipelinedTiles,
    online_attention,
    pipelined_attention,
)
from prefilltune.workloads import Tiles, plain_attention
from prefilltune.workloads.elementary import POLYNOMIALS

#: By name; tiles divide none of the lengths that tests take.
DESCRIPTIONS = {
    "plain": plain_attention,
    "online": partial(online_attention, tiles=Tiles(q_tile=4, kv_tile=3)),
    "pipelined": partial(
        pipelined_attention, tiles=PipelinedTiles(q_tile=4, kv_tile=8), elementary=POLYNOMIALS
    ),
    "staged": partial(
        pipelined_attention,
        tiles=PipelinedTiles(q_tile=4, kv_tile=8, staged_output=True, aligned=True),
        elementary=POLYNOMIALS,
    ),
}
