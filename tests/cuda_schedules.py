"""Schedules of the CUDA spaces with chosen decisions, for tests with a GPU and without one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from prefilltune.tuning.building.finishing import finished
from prefilltune.tuning.building.replaying import replay
from prefilltune.tuning.deployment import Leaf, Lengths, Split, dispatching_kernel
from prefilltune.tuning.search.strategies import Enumeration, Proposal
from prefilltune.tuning.search.strategies.context import tune_context
from prefilltune.tuning.search.strategies.enumeration import Point, shuffled_points
from prefilltune.tuning.spaces import SPACES, Variant
from prefilltune.tuning.target import ResolvedTarget
from prefilltune.workloads import PrefillShape, PrefillSpec, SymbolicShape
from prefilltune.workloads.shapes import squared

#: How the loop over tiles of a wgmma kernel may be pipelined: what variants say besides tiles.
WGMMA_PIPELINES: tuple[dict[str, Any], ...] = (
    {},
    {"ring": 2},
    {"ring": 3},
    {"overlap": True, "ring": 2},
    {"overlap": True, "ring": 3},
    # Few enough blocks that each takes several tiles, one after another.
    {"ring": 2, "persistent": 3},
    {"overlap": True, "ring": 2, "persistent": 3},
    {"overlap": True, "ring": 2, "persistent": 3, "producer": True},
)

#: How many rows warps of an mma kernel may compute, and where they find their queries.
MMA_PIPELINES: tuple[dict[str, Any], ...] = (
    {"warp_rows": 32, "reload_query": True},
    {"warp_rows": 32},
    {},
)

#: And how one of 128 query rows may be besides.
WGMMA_TURNS: tuple[dict[str, Any], ...] = (
    {"overlap": True, "ring": 2, "alternate": True},
    {"overlap": True, "ring": 2, "persistent": 3, "alternate": True},
)

#: And where the output has no place in shared memory.
WGMMA_DIRECT: tuple[dict[str, Any], ...] = (
    {"overlap": True, "ring": 2, "persistent": 3, "producer": True, "direct": True},
)


#: And where a warpgroup computes with no more of the last tile than it sees.
WGMMA_HALVES = ({**WGMMA_PIPELINES[-1], "halves": True},)

#: And where the maximum of a tile is computed only if the anchor has to move.
WGMMA_ON_DEMAND: tuple[dict[str, Any], ...] = (
    {"on_demand": True},
    {"ring": 2, "on_demand": True},
    {"overlap": True, "ring": 2, "on_demand": True},
    {**WGMMA_HALVES[0], "on_demand": True},
)

#: And where heads are taken in sections.
WGMMA_SECTIONS = ({**WGMMA_ON_DEMAND[-1], "sections": 2},)

#: And where heads of a group share query tiles.
WGMMA_HEADS = ({**WGMMA_ON_DEMAND[-1], "heads": 4},)


def pipelined(variants: Sequence[Variant], pipeline: dict[str, Any]) -> dict[str, Any] | None:
    """The first of variants that is pipelined so, whatever its sizes; None where none is.

    The ``persistent`` of a pipeline is put in the place of the GPU's multiprocessors, and where
    variants compute with half of a last tile, maxima on demand, heads in sections, or tiles that
    heads share, one that does not is as good.
    """

    def whole(variant: Variant) -> dict[str, Any]:
        chosen = ("halves", "on_demand", "sections", "heads")
        return {name: value for name, value in variant.items() if name not in chosen}

    wanted = pipeline_of(whole(pipeline))
    found = (each for each in map(whole, variants) if pipeline_of(each) == wanted)
    return next((each | pipeline for each in found), None)


def pipeline_of(variant: Variant) -> dict[str, Any]:
    """What a variant says besides sizes."""
    sizes = {"q_tile", "kv_tile", "rows", "warps"}
    kept = {key: value for key, value in variant.items() if key not in sizes}
    return kept | {"persistent": True} if "persistent" in kept else kept


def proposals(
    space: str,
    variant: dict[str, Any],
    spec: PrefillSpec,
    shape: PrefillShape,
    target: ResolvedTarget,
) -> list[Proposal]:
    """Every candidate of a variant, ordered by its decisions."""
    return list(_in_order(space, variant, spec, shape, target))


def first_proposal(*of: Any) -> Proposal:
    """The first of :func:`proposals`; the others are not scheduled for it."""
    return next(_in_order(*of))


def last_proposal(*of: Any) -> Proposal:
    """The last of :func:`proposals`; the others are not scheduled for it."""
    return next(_in_order(*of, backwards=True))


def _in_order(
    space: str,
    variant: dict[str, Any],
    spec: PrefillSpec,
    shape: PrefillShape,
    target: ResolvedTarget,
    *,
    backwards: bool = False,
) -> Iterator[Proposal]:
    of = SPACES[space]
    module, generator = of.describe(spec, shape, variant), of.generator(spec, variant)
    context = tune_context(module, target.target, generator, space, threads=1, seed=1)
    points = shuffled_points(context.generate_design_space(), 0, space)
    assert points is not None  # a space that is enumerated

    def decisions(point: Point) -> list[int]:
        trace, chosen = point
        return [chosen[each] for each in trace.insts if each in chosen]

    for point in sorted(points, key=decisions, reverse=backwards):
        yield from Enumeration(context, [point]).propose(1)


def for_every_shape(
    space: str,
    spec: PrefillSpec,
    target: ResolvedTarget,
    boundary: int = 200,
    lengths: tuple[Lengths, ...] = (),
) -> Any:
    """A PrimFunc with the first two variants of a space, of which ``kv_len`` decides.

    The first variant has kernels for ``lengths`` too, and both have others for as many keys as
    queries. It takes views.
    """
    tuned, sizes = PrefillShape(2, 256), SymbolicShape.fresh()
    variants = [dict(each) for each in SPACES[space].variants(spec, tuned, target)[:2]]

    def kernel(variant: dict[str, Any], sizes: SymbolicShape) -> Any:
        proposal = first_proposal(space, variant, spec, tuned, target)
        found = replay(SPACES[space], spec, sizes, variant, proposal.trace)
        return finished(found.module)["main"]

    def both(sizes: SymbolicShape) -> dict[str, Any]:
        return {str(number): kernel(variant, sizes) for number, variant in enumerate(variants)}

    own = {
        (qo_len, kv_len): kernel(variants[0], SymbolicShape(sizes.batch, qo_len, kv_len))
        for qo_len, kv_len in lengths
    }
    served = {each: (Leaf("0"), {"0": fixed}) for each, fixed in own.items()}
    tree = Split("kv_len", boundary, Leaf("0"), Leaf("1"))
    return dispatching_kernel(
        spec, tree, both(sizes), sizes, target.target, served,
        squares=both(squared(sizes)), views=True,
    )  # fmt: skip
