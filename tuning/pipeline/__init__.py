"""The pass that pipelines a loop: what it loads comes while it computes, in several orders."""

from .annotations import (
    AHEAD,
    ALTERNATE,
    BULK,
    BULK_ONCE,
    HALVES,
    LOADS,
    LOADS_AFTER,
    MIN_BLOCKS,
    ON_DEMAND,
    OVERLAP,
    PAIR,
    PEEL,
    PERSISTENT,
    PRODUCER,
    SECTIONS,
    TILE_REGISTERS,
    TILES,
    TRANSPOSE,
    TRIM,
)
from .longest_first import RANKING_BYTES
from .rewriting import pipeline
from .rings import BARRIER_BYTES

__all__ = [
    "AHEAD",
    "ALTERNATE",
    "BARRIER_BYTES",
    "BULK",
    "BULK_ONCE",
    "HALVES",
    "LOADS",
    "LOADS_AFTER",
    "MIN_BLOCKS",
    "ON_DEMAND",
    "OVERLAP",
    "PAIR",
    "PEEL",
    "PERSISTENT",
    "PRODUCER",
    "RANKING_BYTES",
    "SECTIONS",
    "TILES",
    "TILE_REGISTERS",
    "TRANSPOSE",
    "TRIM",
    "pipeline",
]
