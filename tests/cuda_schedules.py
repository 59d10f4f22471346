"""Schedules of the CUDA spaces with chosen decisions, for tests with a GPU and without one."""

from __future__ import annotations

from typing import Any

from tvm.s_tir import Schedule
from tvm.s_tir.schedule import Trace

from prefilltune.tuning.arm import Arm, Case
from prefilltune.tuning.dispatch import Leaf, Split, dispatching_kernel
from prefilltune.tuning.pipeline import pipeline
from prefilltune.tuning.proposals import Proposal
from prefilltune.tuning.spaces import SPACES
from prefilltune.tuning.target import ResolvedTarget
from prefilltune.workloads import PrefillShape, PrefillSpec, SymbolicShape, parse_lengths

#: How the loop over tiles of a wgmma kernel may be pipelined: what variants say besides tiles.
WGMMA_PIPELINES: tuple[dict[str, Any], ...] = (
    {},
    {"overlap": True},
    {"ring": 2},
    {"ring": 3},
    {"overlap": True, "ring": 2},
    {"overlap": True, "ring": 3},
)


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


def for_every_shape(
    space: str, spec: PrefillSpec, target: ResolvedTarget, boundary: int = 200
) -> Any:
    """A PrimFunc with the first two variants of a space, of which ``kv_len`` decides."""
    tuned, sizes, kernels = PrefillShape(2, 256), SymbolicShape.fresh(), {}
    for variant in map(dict, SPACES[space].variants(spec, tuned, target)[:2]):
        name = str(len(kernels))
        proposal = proposals(space, variant, spec, tuned, target)[0]
        schedule = Schedule(SPACES[space].describe(spec, sizes, variant, target.kind))
        Trace.apply_json_to_schedule(proposal.trace, schedule)
        kernels[name] = pipeline(schedule.mod)["main"]
    tree = Split("kv_len", boundary, Leaf("0"), Leaf("1"))
    return dispatching_kernel(spec, tree, kernels, sizes, target.target)
