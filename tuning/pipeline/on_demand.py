"""Maxima of tiles that are computed where they are asked for.

The anchor of exponentials may lag behind the maximum, and with few tiles it moves. Whether it has
to is asked first, of the bits of what a lane has: in half as many instructions as the maximum
takes, and without the other lanes. Where no lane of a warp has a number that lies too high, the
anchor, and what was summed up relative to it, stay as they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import PipelineError
from ..intrinsics.above import above, any_lane, largest
from .across_lanes import LaneReduction
from .annotations import ON_DEMAND
from .steps import (
    buffers_of,
    int32,
    is_annotated,
    other_annotations,
    renewed,
    sequence,
    stored,
    stores_of,
    substituted,
    whole,
    with_ones,
)


def maxima_on_demand(stmt: Any) -> Any:
    """A loop with :data:`ON_DEMAND`, its maximum and what moves the anchor in one step.

    None for other statements.

    Raises
    ------
    PipelineError
        If the loop has no such steps.
    """
    from tvm import tirx

    if not is_annotated(stmt, ON_DEMAND):
        return None
    loop: Any = stmt
    kept = other_annotations(loop, ON_DEMAND)
    steps = tirx.SeqStmt(_asked_first(loop, list(loop.body.seq)))
    return tirx.For(
        loop.loop_var, loop.min, loop.extent, loop.kind, steps, loop.thread_binding, kept
    )


def _asked_first(loop: Any, steps: list[Any]) -> list[Any]:
    """The steps of a loop with all from the maximum to what moves with the anchor as one."""
    found = [(index, each) for index, step in enumerate(steps) if (each := _maximum(step))]
    if len(found) != 1:
        raise PipelineError(
            f"a loop with {ON_DEMAND} has {len(found)} steps that reduce lanes by a maximum; it "
            "needs one"
        )
    ((first, maximum),) = found
    numbers = maximum.block.reads[0].source
    behind = (i for i in range(first + 1, len(steps)) if numbers in buffers_of(steps[i])[0])
    last = next(behind, first)
    moving, others = steps[first:last], steps[last:]
    asking = _question(loop, maximum, _Anchor.of(maximum, moving))
    return [*steps[:first], _if_above(asking, moving, others), *others]


def _maximum(step: Any) -> LaneReduction | None:
    found = LaneReduction.of(step)
    return found if found is not None and found.kind == "max" else None


@dataclass(frozen=True, eq=False)
class _Anchor:
    """What moves where the maximum, times ``factor``, lies more than ``lag`` above it."""

    buffer: Any
    lag: float
    factor: float

    @classmethod
    def of(cls, maximum: LaneReduction, moving: Sequence[Any]) -> _Anchor:
        """That of the steps behind the maximum.

        Raises
        ------
        PipelineError
            If no step moves an anchor that may lag.
        """
        from tvm import tirx

        target = maximum.block.body.buffer
        for store in stores_of(*moving):
            value: Any = store.value
            if not isinstance(value, tirx.Select):
                continue
            factor = _factor(value.true_value, target)
            late = value.condition.b if isinstance(value.condition, tirx.GT) else None
            lag = late.b if isinstance(late, tirx.Add) else None
            if factor is not None and isinstance(lag, tirx.FloatImm):
                return cls(store.buffer, lag.value, factor)
        raise PipelineError(
            f"a loop with {ON_DEMAND} needs a step that moves the anchor where the maximum, or "
            "that times a positive number, lies so far above it: describe it with a slack"
        )

    def limit(self, row: Any) -> Any:
        """Above which number the anchor of a row moves."""
        from tvm import tirx

        one, most = (tirx.const(each / self.factor, "float32") for each in (1, self.lag))
        return self.buffer[row] * one + most


def _factor(value: Any, target: Any) -> float | None:
    """What a load of the maximum is multiplied by; None for other values."""
    from tvm import tirx
    from tvm.ir import TensorLoad

    if isinstance(value, TensorLoad) and value.source.same_as(target):
        return 1.0
    if isinstance(value, tirx.Mul) and isinstance(value.b, tirx.FloatImm) and value.b.value > 0:
        inner = _factor(value.a, target)
        return None if inner is None else inner * value.b.value
    return None


def _question(loop: Any, maximum: LaneReduction, anchor: _Anchor) -> tuple[Any, Any]:
    """Where the answer is, and a statement that stores it there.

    Of the first tile it is known: no row has an anchor.
    """
    from tvm import s_tir, tirx

    *outer, pair = maximum.within_lane
    if int(pair.extent) != 2:
        raise PipelineError(
            f"a loop with {ON_DEMAND} compares two numbers of a lane at a time, and here "
            f"{int(pair.extent)} lie side by side"
        )
    rows, element = maximum.rows, maximum.element
    most = tirx.decl_buffer((rows.extent,), "int32", name="most", scope="local")
    answer = tirx.decl_buffer((1,), "int32", name="beyond", scope="local")
    both = (substituted(element, {pair.loop_var: int32(index)}) for index in range(2))
    row, unrolled = rows.loop_var, tirx.ForKind.UNROLLED
    step: Any = tirx.BufferStore(most, largest(most[row], *both), [row])
    for each in reversed(outer):
        step = tirx.For(each.loop_var, each.min, each.extent, each.kind, step)
    begin = tirx.BufferStore(most, int32(0), [row])
    compared = tirx.For(row, rows.min, rows.extent, unrolled, tirx.SeqStmt([begin, step]))
    found: Any = int32(0)
    for index in range(int(rows.extent)):
        (place,) = maximum.place(int32(index))
        found = found | above(most[index], anchor.limit(place))
    reads = [maximum.block.reads[0].source, anchor.buffer]
    block = s_tir.SBlock(
        [], [*map(whole, reads)], [whole(answer)], "question",
        tirx.SeqStmt([compared, stored(answer, any_lane(found))]),
        alloc_buffers=[most],
    )  # fmt: skip
    asked = maximum.by_threads(s_tir.SBlockRealize([], True, block))
    asked = renewed(asked, [*reads, answer])
    known = stored(answer, int32(1))
    later = tirx.Not(tirx.EQ(loop.loop_var, loop.min))
    return answer, tirx.SeqStmt([known, tirx.IfThenElse(later, asked, None)])


def _if_above(asking: tuple[Any, Any], moving: Sequence[Any], others: Sequence[Any]) -> Any:
    """Steps that move the anchor, if that is the answer; and factors of 1 if it is not."""
    from tvm import s_tir, tirx

    answer, question = asking
    reads, writes = buffers_of(tirx.SeqStmt(list(moving)))
    read_behind = {each for step in others for each in buffers_of(step)[0]}
    carried = {each for each in writes if each in reads}
    factors = [each for each in writes if each in read_behind and each not in carried]

    ones = [
        renewed(with_ones(each, factors), [*dict.fromkeys(itertools.chain(*buffers_of(each)))])
        for each in moving
        if set(buffers_of(each)[1]) & set(factors)
    ]
    moved = tirx.IfThenElse(answer[0] != 0, sequence(moving), None)
    asked_reads, _ = buffers_of(question)
    block = s_tir.SBlock(
        [], [*map(whole, dict.fromkeys([*asked_reads, *reads]))],
        [*map(whole, dict.fromkeys(writes))], "on_demand",
        tirx.SeqStmt([question, *ones, moved]), alloc_buffers=[answer],
    )  # fmt: skip
    return s_tir.SBlockRealize([], True, block)
