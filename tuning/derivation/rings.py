"""The pass that keeps copies in rings, so that one tile is computed with as others are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .expressions import Buffer, Expr, Load, dtype_of, element, new_buffer, with_loads
from .nest import Half, Kept, Nest, Step
from .stages import Axis


def in_rings(nest: Nest, slots: int) -> Nest:
    """``nest`` whose copies for a tile of columns lie in the slot that its number gives."""
    steps = [step for step in nest.loop if not isinstance(step, Half)]
    rings = {s.buffer: _ring(s.buffer, slots) for s in steps if s.kept is Kept.COPIES}
    tile: Any = nest.tile.var
    number = Axis(tile, nest.visited)

    def slot(indices: Sequence[Expr]) -> tuple[Expr, ...]:
        return (tile % slots, *indices)

    def changed(load: Load) -> Expr:
        ring = rings.get(load.source)
        return load if ring is None else element(ring, slot(load.indices))

    def in_slot(step: Step) -> Step:
        value = with_loads(step.value, changed)
        if step.buffer in rings:
            step = replace(step, buffer=rings[step.buffer], indices=slot(step.indices))
        elif value.same_as(step.value):
            return step
        return replace(step, value=value, at=None if step.tile is not None else number)

    loop = (step if isinstance(step, Half) else in_slot(step) for step in nest.loop)
    return replace(nest, loop=tuple(loop))


def _ring(buffer: Buffer, slots: int) -> Buffer:
    return new_buffer([slots, *buffer.shape], dtype_of(buffer), buffer.name)
