"""What a schedule sampled, by the trace that MetaSchedule's JSON has of it."""

from __future__ import annotations

from typing import Any, NamedTuple


class Sampled(NamedTuple):
    """A variable of a trace.

    Parameters
    ----------
    place : int
        Of the instruction that samples it, by which a trace names the decision.
    value : object
        What was decided: one of its candidates, or of a tiling the factors.
    """

    place: int
    value: Any


def sampled(trace: Any) -> dict[str, Sampled]:
    """All that a trace sampled, by variables; a tiling by its first one."""
    instructions, decisions = trace
    chosen, found = dict(map(tuple, decisions)), {}
    for place, (name, _, attributes, outputs) in enumerate(instructions):
        if name == "SampleCategorical":
            found[outputs[0]] = Sampled(place, attributes[0][chosen[place]])
        elif name == "SamplePerfectTile":
            found[outputs[0]] = Sampled(place, chosen[place])
    return found


def sampled_for(trace: Any) -> dict[str, Sampled]:
    """What a trace sampled to annotate loops with, by annotations."""
    by_variable = sampled(trace)
    return {
        attributes[0]: by_variable[inputs[1]]
        for name, inputs, attributes, _ in trace[0]
        if name == "Annotate" and isinstance(inputs[1], str) and inputs[1] in by_variable
    }
