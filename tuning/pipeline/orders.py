"""The orders in which a pipelined loop loads and computes: one function each.

Every one takes the loop, its loads, its other steps, and how many of these come before the next
loads, and gives what stands in the loop's place; see :func:`~.rewriting.pipeline`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import PipelineError
from ..intrinsics import JOIN, WAIT
from ..intrinsics.turns import begin_turns, pass_turn, take_turn
from .annotations import AHEAD, ALTERNATE, BULK, HALVES, OVERLAP, PRODUCER
from .halves import Halves
from .rings import Ring, rings_of
from .steps import (
    at,
    buffers_of,
    if_any,
    sequence,
    serial,
    synchronized,
    waiting,
    with_ones,
    without,
)

#: What starts the first loads of the loop's next run, or some of them.
Following = Callable[[slice], Sequence[Any]]


def prefetched(loop: Any, loads: Sequence[Any], others: Sequence[Any], after: int) -> Any:
    """Load a tile ahead, and compute in the given order."""
    from tvm import tirx

    t, begin = loop.loop_var, loop.min
    body = [*others[:after], if_any(loop, loads, t + 1), *others[after:]]
    return tirx.SeqStmt([if_any(loop, loads, begin), serial(loop, t, begin, loop.extent, body)])


def ringed(
    loop: Any,
    once: Sequence[Any],
    loads: Sequence[Any],
    others: Sequence[Any],
    after: int,
    rings: list[Ring],
) -> Any:
    """Load into rings of tiles, which are added to ``rings``.

    What is loaded ``once``, for all tiles, is not loaded where there are none.

    Raises
    ------
    PipelineError
        If there are not two loads, and one beside the loop, or the steps are not such products.
    """
    from tvm import tirx

    if len(loads) != 2 or len(others) < 2 or len(once) != 1:
        raise PipelineError(
            f"a loop of {len(loads)} loads and {len(others)} other steps, {len(once)} loads beside "
            "it, cannot load bulk-wise: it needs two loads, the two products that read what these "
            "bring, first and last, and the load of the query before it"
        )
    found = rings_of([*once, *loads])
    rings += found
    whole = [
        *first_loads(loop, found, loop.min, loop.extent),
        synchronized(),
        found[0].arrived(tirx.const(0, "int32")),
        *computed(loop, found, others, after),
    ]
    some = tirx.IfThenElse(loop.extent > 0, tirx.SeqStmt(whole), None)
    return sequence([*begun_turns(loop), some])


def _ahead(loop: Any, keys: Ring) -> int:
    """How many tiles ahead of their use loads are started.

    Raises
    ------
    PipelineError
        If a ring cannot hold as many.
    """
    ahead = int(loop.annotations.get(AHEAD, 1))
    if not 1 <= ahead <= keys.slots:
        raise PipelineError(
            f"loads of a loop are to be {ahead} tiles ahead, in rings of {keys.slots}; at least 1, "
            "and no more than a ring has slots"
        )
    return ahead


def first_loads(loop: Any, rings: Sequence[Ring], begin: Any, extent: Any) -> list[Any]:
    """The loads that a loop begins with, of query, keys and values; it has a tile.

    Where they fill the rings at once, the last one needs the slot of the last tile before.
    """
    from tvm import tirx

    query, keys, values = rings
    ahead = _ahead(loop, keys)
    more = [
        tirx.IfThenElse(begin + tile < begin + extent, ring.load(begin + tile), None)
        for tile in range(1, ahead)
        for ring in (keys, values)
    ]
    zero = tirx.const(0, "int32")
    return [query.load(zero), keys.load(begin), values.load(begin), *more]


def computed(
    loop: Any,
    rings: Sequence[Ring],
    others: Sequence[Any],
    after: int,
    following: Following | None = None,
) -> list[Any]:
    """What computes with the tiles, and loads the next ones; they came through ``rings``."""
    order = _overlapped if OVERLAP in loop.annotations else _in_turn
    return order(loop, rings, others, after, following)


def _load(loop: Any, ring: Ring, tile: Any) -> list[Any]:
    """Start to load a tile, if there is one, unless others load."""
    from tvm import tirx

    if PRODUCER in loop.annotations:
        return []
    return [tirx.IfThenElse(tile < loop.min + loop.extent, ring.load(tile), None)]


def _before_or_behind(ring: Ring, ahead: int, load: list[Any]) -> tuple[list[Any], list[Any]]:
    """A load in front of what frees the tile at hand, or behind it where it takes its slot."""
    return ([], load) if ahead == ring.slots else (load, [])


def _in_turn(
    loop: Any,
    rings: Sequence[Ring],
    others: Sequence[Any],
    after: int,
    following: Following | None,
) -> list[Any]:
    """Compute in the given order."""
    query, keys, values = rings
    first, *between, second = others
    t, ahead = loop.loop_var, _ahead(loop, keys)
    before, behind = _before_or_behind(values, ahead, _load(loop, values, t + ahead))
    body = [
        keys.arrived(t),
        without(JOIN, first),
        keys.done(t),
        *between[: after - 1],
        *_load(loop, keys, t + ahead),
        *before,
        *between[after - 1 :],
        values.arrived(t),
        second,
        values.done(t),
        *behind,
    ]
    loops = [serial(loop, t, loop.min, loop.extent, body)]
    if following is None:
        return loops
    return [*loops, _free(query), *following(slice(None))]


def _free(query: Ring) -> Any:
    from tvm import tirx

    return query.done(tirx.const(0, "int32"))


def _free_early(loop: Any, query: Ring, tile: Any) -> list[Any]:
    """Free the query behind the last product that reads it, where others load the next one."""
    from tvm import tirx

    if PRODUCER not in loop.annotations:
        return []
    last = tirx.EQ(tile, loop.min + loop.extent - 1)
    return [tirx.IfThenElse(last, _free(query), None)]


def _overlapped(
    loop: Any,
    rings: Sequence[Ring],
    others: Sequence[Any],
    after: int,
    following: Following | None,
) -> list[Any]:
    """Compute the first product a tile ahead of the second."""
    from tvm import tirx

    query, keys, values = rings
    ahead = _ahead(loop, keys)
    begin, count = loop.min, loop.extent
    end = begin + count
    *_, second = _parts(others, after)

    def values_here(tile: Any, *, early: bool) -> list[Any]:
        return [values.arrived(tile)] if early == (PRODUCER in loop.annotations) else []

    keys_before, keys_behind = _before_or_behind(keys, ahead, _load(loop, keys, begin + ahead))

    def first_tile(steps: Sequence[Any]) -> list[Any]:
        first, between, operand, _ = _parts(steps, after)
        return [
            at(loop, [without(JOIN, first)], begin),
            keys.done(begin),
            *_free_early(loop, query, begin),
            *keys_behind,
            at(loop, [*_of_first_sums(between, second), operand], begin),
            *values_here(begin, early=True),
        ]

    take, passed = _turns(loop)

    def further_tile(steps: Sequence[Any], t: Any) -> list[Any]:
        first, between, operand, _ = _parts(steps, after)
        before, behind = _before_or_behind(values, ahead, _load(loop, values, t - 1 + ahead))
        rest, wait = between[after - 1 :], waiting(second, 0)
        # ptxas puts a wait for products in front of all arithmetic that could be done meanwhile,
        # but not across a loop, such as one that asks whether values have arrived.
        here = values_here(t, early=True)
        steps_between = (
            [at(loop, rest, t), *here, at(loop, [wait], t)]
            if here
            else [at(loop, [*rest, wait], t)]
        )
        return [
            keys.arrived(t),
            *take,
            at(loop, [without(WAIT, without(JOIN, first))], t),
            *values_here(t - 1, early=False),
            at(loop, [without(WAIT, second)], t - 1),
            *passed,
            at(loop, [waiting(first, 1)], t),
            keys.done(t),
            *_free_early(loop, query, t),
            *([at(loop, between[: after - 1], t)] if after > 1 else []),
            *_load(loop, keys, t + ahead),
            *before,
            *steps_between,
            values.done(t - 1),
            *behind,
            at(loop, [operand], t),
        ]

    def last_product(steps: Sequence[Any]) -> list[Any]:
        *_, product = _parts(steps, after)
        last = values_here(end - 1, early=False)
        if following is None:
            return [*last, at(loop, [product], end - 1)]
        return [
            *last,
            at(loop, [without(WAIT, product)], end - 1),
            *([] if PRODUCER in loop.annotations else [_free(query)]),
            *following(slice(None, -1) if ahead == values.slots else slice(None)),
            at(loop, [waiting(product, 0)], end - 1),
            values.done(end - 1),
            *(following(slice(-1, None)) if ahead == values.slots else []),
        ]

    # This loop begins at 0: TVM shifts one that does not, and misses where loops within it begin.
    step: Any = tirx.Var("step", loop.loop_var.ty)
    zero = tirx.const(0, step.ty.dtype)

    def further_tiles(number: Any) -> Any:
        return serial(loop, step, zero, number, further_tile(others, begin + 1 + step))

    ready = [*keys_before, keys.arrived(begin)]
    halves = _halves(loop, others)
    if halves is None:
        return [*ready, *first_tile(others), further_tiles(count - 1), *last_product(others)]
    # Each way to its end by itself: a product that runs across places where they meet is one that
    # ptxas has no registers for.
    own = halves.steps
    more = [
        *first_tile(others),
        further_tiles(count - 1 - tirx.Cast("int32", halves.enough)),
        tirx.IfThenElse(
            halves.enough,
            sequence([*further_tile(own, end - 1), *last_product(own)]),
            sequence(last_product(others)),
        ),
    ]
    alone = tirx.all(tirx.EQ(count, tirx.const(1, "int32")), halves.enough)
    one = sequence([*first_tile(own), *last_product(own)])
    return [halves.within([*ready, tirx.IfThenElse(alone, one, sequence(more))])]


def _halves(loop: Any, steps: Sequence[Any]) -> Halves | None:
    """Who computes with half of the last tile, if any does.

    Raises
    ------
    PipelineError
        If threads that compute load too.
    """
    if HALVES not in loop.annotations:
        return None
    if PRODUCER not in loop.annotations:
        raise PipelineError(
            f"a loop with {HALVES} has warpgroups that compute apart from one another, which needs "
            f"one that loads: annotate it with {PRODUCER} too"
        )
    return Halves.of(loop, steps, int(loop.annotations[HALVES]), int(loop.annotations[BULK]))


def _of_first_sums(between: Sequence[Any], product: Any) -> list[Any]:
    """Steps of a first tile: by the factor 1, nothing of what the product adds to is multiplied.

    That is nothing before, whatever the factor.
    """
    reads, writes = buffers_of(product)
    factors = [each for each in reads if each.dtype == "float32" and each not in writes]
    return [with_ones(each, factors) for each in between]


def _turns(loop: Any) -> tuple[list[Any], list[Any]]:
    """What waits for a warpgroup's turn at the tensor cores, and what ends it."""
    from tvm import tirx

    if ALTERNATE not in loop.annotations:
        return [], []
    return [tirx.Evaluate(take_turn())], [tirx.Evaluate(pass_turn())]


def begun_turns(loop: Any) -> list[Any]:
    """What begins the turns of a loop's warpgroups, if they take turns.

    Raises
    ------
    PipelineError
        If there are not two warpgroups, or products do not overlap.
    """
    from tvm import tirx

    if ALTERNATE not in loop.annotations:
        return []
    warps = int(loop.annotations[BULK])
    if warps != 8 or OVERLAP not in loop.annotations:
        raise PipelineError(
            f"{warps} warps cannot take turns at the tensor cores: it needs the eight of two "
            f"warpgroups, and {OVERLAP}"
        )
    return [tirx.Evaluate(begin_turns())]


def _parts(others: Sequence[Any], after: int) -> tuple[Any, list[Any], Any, Any]:
    """First product, steps between, the last one of them, and second product.

    Raises
    ------
    PipelineError
        If the loop has no such steps.
    """
    if len(others) < 4 or after > len(others) - 2:
        raise PipelineError(
            f"a loop whose next loads come after {after} of {len(others)} steps cannot overlap its "
            "products: it needs two products with two or more steps between them, the last of "
            "which comes after the next loads"
        )
    first, *between, operand, second = others
    return first, between, operand, second
