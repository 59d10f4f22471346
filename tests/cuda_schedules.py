"""Schedules of the CUDA spaces with chosen decisions, for tests with a GPU and without one."""

from __future__ import annotations

from typing import Any

from prefilltune.tuning.arm import Arm, Case
from prefilltune.tuning.proposals import Proposal
from prefilltune.tuning.spaces import SPACES
from prefilltune.tuning.target import ResolvedTarget
from prefilltune.workloads import PrefillShape, PrefillSpec, parse_lengths


def proposals(
    space: str,
    variant: dict[str, Any],
    spec: PrefillSpec,
    shape: PrefillShape,
    target: ResolvedTarget,
) -> list[Proposal]:
    """Every candidate of a variant, ordered by its decisions."""
    case = Case(spec, shape, target, parse_lengths("full"))
    found = Arm(case, SPACES[space], variant, None, 8, 1).propose(10_000)
    return sorted(found, key=lambda proposal: str(proposal.trace[1]))
