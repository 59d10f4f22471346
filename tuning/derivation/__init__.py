"""The plain description made others, by passes over TIR that know nothing of attention."""

from .attention import MAX_SCORE, PipelinedTiles, online_attention, online_text, pipelined_attention
from .derive import Pipelining, derive_online, derive_pipelined
from .lanes import FRAGMENT_COLUMNS
from .naming import Names
from .tiling import Tiling

__all__ = [
    "FRAGMENT_COLUMNS",
    "MAX_SCORE",
    "Names",
    "PipelinedTiles",
    "Pipelining",
    "Tiling",
    "derive_online",
    "derive_pipelined",
    "online_attention",
    "online_text",
    "pipelined_attention",
]
