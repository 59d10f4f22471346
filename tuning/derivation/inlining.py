"""The pass that puts what is elementwise into what reads it.

A stage that several stages read stays: it is computed once for all of them.
"""

from __future__ import annotations

from dataclasses import replace

from .expressions import Expr, Load, substituted, with_loads
from .stages import Description, Stage


def inline(description: Description) -> Description:
    """``description`` without the elementwise stages that one stage reads."""
    for stage in description.stages:
        if len(description.readers(stage.buffer)) == 1 and not stage.reduced:
            return inline(_without(description, stage))
    return description


def _without(description: Description, inlined: Stage) -> Description:
    def changed(load: Load) -> Expr:
        if not load.source.same_as(inlined.buffer):
            return load
        return substituted(inlined.value, dict(zip(inlined.indices, load.indices, strict=True)))

    return Description(
        tuple(
            replace(stage, value=with_loads(stage.value, changed))
            for stage in description.stages
            if stage is not inlined
        )
    )
