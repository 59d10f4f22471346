"""The pass that pipelines a loop: what it loads comes while it computes, in several orders."""

from .annotations import AHEAD, BULK, BULK_ONCE, LOADS, LOADS_AFTER, MIN_BLOCKS, OVERLAP
from .rewriting import pipeline
from .rings import BARRIER_BYTES

__all__ = [
    "AHEAD",
    "BARRIER_BYTES",
    "BULK",
    "BULK_ONCE",
    "LOADS",
    "LOADS_AFTER",
    "MIN_BLOCKS",
    "OVERLAP",
    "pipeline",
]
