"""The pass that adds to what is carried in place, as a matrix instruction accumulates.

A carried sum with more axes than the row is put right and added to in one reduction, over tiles of
columns and the columns of a tile: the first column of a tile puts it right.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tvm import tirx
from tvm.ir import TensorLoad

from .expressions import dtype_of
from .nest import Half, Kept, Nest, Step
from .stages import Axis


def fuse(nest: Nest) -> Nest:
    """``nest`` without the sums over one tile that are added to what is carried with more axes."""
    steps = [step for step in nest.loop if not isinstance(step, Half)]
    fused = {step: part for step in steps if (part := _part(steps, step)) is not None}
    loop = (
        _fused(fused[step], step, nest) if step in fused else step
        for step in nest.loop
        if step not in fused.values()
    )
    return replace(nest, loop=tuple(loop))


def _part(steps: list[Step], carried: Step) -> Step | None:
    """The sum over one tile that ``carried`` adds, if it is one to fuse with."""
    value: Any = carried.value
    if carried.kept is not Kept.CARRIED or not isinstance(value, tirx.Add):
        return None
    if not isinstance(value.b, TensorLoad):
        return None
    parts = (step for step in steps if step.buffer.same_as(value.b.source))
    return next((part for part in parts if isinstance(part.value, tirx.Add)), None)


def _fused(part: Step, carried: Step, nest: Nest) -> Step:
    (column,) = part.reduced
    running, value = carried.value.a, part.value
    if isinstance(running, tirx.Mul):
        one = tirx.const(1, dtype_of(running))
        first = tirx.EQ(column, tirx.const(0, "int32"))
        running = running.a * tirx.if_then_else(first, running.b, one)
    return replace(
        carried,
        axes=part.axes,
        reduced=part.reduced,
        value=running + value.b,
        tile=Axis(nest.tile.var, nest.visited),
    )
