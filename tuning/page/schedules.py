"""How a record schedules its kernel, in words."""

from __future__ import annotations

from typing import Any

from ...database import Entry
from ...workloads import PrefillSpec
from ..building.sampled import Sampled, sampled, sampled_for
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
    found = {_SAMPLED.get(name, name): _text(each) for name, each in sampled_for(trace).items()}
    tiles = [_text(each) for each in sampled(trace).values() if isinstance(each.value, list)]
    if tiles:
        found["loops split into"] = ", ".join(tiles)
    return found


def _text(choice: Sampled) -> str:
    """What was decided; of a tiling all its factors."""
    value = choice.value
    return " x ".join(map(str, value)) if isinstance(value, list) else str(value)
