"""How a record schedules its kernel, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...database import Entry
from ...workloads import PrefillSpec
from ..spaces import SPACES

# What annotations of a schedule are for people, where a design space samples them.
_SAMPLED = {
    "prefill.ahead": "tiles loaded ahead of their use",
    "prefill.loads_after": "steps of a tile before the next one's loads",
    "prefill.min_blocks": "blocks that a multiprocessor shall hold",
}


def in_words(entry: Entry) -> dict[str, str]:
    """What is known of a record's schedule: from its variant, and from its trace's decisions."""
    origin = entry.provenance
    space = SPACES.get(origin.space)
    known: dict[str, str] = {}
    if space is not None:
        known = space.facts(PrefillSpec.parse(origin.spec), origin.variant)
    return {"design space": origin.space, **known, **decisions(entry.trace)}


def decisions(trace: list[Any]) -> dict[str, str]:
    """What was sampled for a schedule, by what it is for.

    Parameters
    ----------
    trace
        MetaSchedule's JSON: instructions, and decisions by the index of their instruction.
    """
    instructions, chosen = trace
    values = dict(_sampled(instructions, dict(map(tuple, chosen))))
    found: dict[str, str] = {}
    for name, inputs, attributes, _ in instructions:
        value = inputs[1] if name == "Annotate" else None
        if isinstance(value, str) and value in values:
            annotation: str = attributes[0]
            found[_SAMPLED.get(annotation, annotation)] = values[value]
    tiles = [value for value in values.values() if "x" in value]
    if tiles:
        found["loops split into"] = ", ".join(tiles)
    return found


def _sampled(instructions: list[Any], chosen: Mapping[int, Any]) -> Iterator[tuple[str, str]]:
    """The value of every sampled variable; a tiling's, once for all its factors."""
    for index, (name, _, attributes, outputs) in enumerate(instructions):
        if name == "SampleCategorical":
            yield outputs[0], str(attributes[0][chosen[index]])
        elif name == "SamplePerfectTile":
            yield outputs[0], " x ".join(map(str, chosen[index]))
