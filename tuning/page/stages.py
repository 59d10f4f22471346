"""The descriptions that a kernel goes through before it is scheduled, as texts."""

from __future__ import annotations

from collections.abc import Iterable

from ...database import Entry
from ...workloads import PrefilltuneError
from ..building.replaying import origin_of
from ..building.showing import STAGES, UNTUNED, Kernel, show_stage

#: What each stage is.
ABOUT = {stage: STAGES[stage] for stage in UNTUNED}


def stages_of(entries: Iterable[Entry]) -> tuple[list[str], dict[str, dict[str, int]]]:
    """Stages of records, every text once.

    Returns
    -------
    list of str
        The texts. Those that are alike stand together, which packs well.
    dict
        By record and stage, the number of a text. A record whose design space is gone has none.
    """
    known: dict[tuple, str] = {}
    found = {entry.record_id: _texts(entry, known) for entry in entries}
    texts = sorted({text for each in found.values() for text in each.values()})
    number = {text: index for index, text in enumerate(texts)}
    return texts, {
        record: {stage: number[text] for stage, text in each.items()}
        for record, each in found.items()
    }


def _texts(entry: Entry, known: dict[tuple, str]) -> dict[str, str]:
    """Of one record; what depends on the workload alone is made once for all of its records.

    Sizes stand in the texts, and tell records of one workload's shapes apart by little else: those
    of the shape that is first serve all.
    """
    from tvm.target import Target

    origin = entry.provenance
    variant = (origin.space, *sorted(origin.variant.items()))
    found: dict[str, str] = {}
    try:
        space, spec, shape, chosen = origin_of(entry)
        kernel = Kernel(spec, shape, Target(entry.target_json), space.name, chosen)
        for stage in UNTUNED:
            key = (stage, origin.spec, *(variant if stage == "tiled" else ()))
            if key not in known:
                known[key] = show_stage(stage, kernel).code
            found[stage] = known[key]
    except PrefilltuneError:
        return {}
    return found
