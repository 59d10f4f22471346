"""What is derived before it is tiled, as text: one pass over the columns, row by row.

It reads like TVMScript, and is none: how wide a tile is, which operands products get, and where
buffers live is decided later. ``tiles(begin, end)`` stands for any cut of the columns from
``begin`` to ``end``: the number of each tile, and the columns in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tvm import tirx

from .axes import Roles
from .expressions import Buffer, dtype_of
from .intervals import Intervals
from .one_pass import OnePass
from .stages import Axis, Stage, load

_TILE_COLUMNS = "columns"


def one_pass_text(
    passes: OnePass, roles: Roles, intervals: Intervals, parameters: Sequence[Buffer]
) -> str:
    """``passes`` as the statements of a function.

    Parameters
    ----------
    parameters : sequence of Buffer
        Of the function.
    """
    outside = (*roles.outer, roles.row)
    extents = {axis: str(axis.extent) for stage in passes.stages for axis in stage.axes}
    extents[roles.column] = _TILE_COLUMNS

    def sblocks(stages: Iterable[Stage], depth: int) -> Iterator[str]:
        for stage in stages:
            inside = [axis for axis in stage.axes if axis not in outside]
            yield from _indented(_sblock(stage, inside, extents), depth)

    anchor = roles.anchor.name
    return "\n".join(
        [
            "def main(",
            *_indented(map(_parameter, parameters), 1),
            "):",
            f"    {_loop(outside, [str(axis.extent) for axis in outside])}  # each row",
            *_indented(_range(roles, intervals), 2),
            *sblocks(passes.before, 2),
            f"        for {passes.tile.var}, {_TILE_COLUMNS} in tiles(begin, end):",
            f"            # the first half of a tile: what {anchor} is to take in",
            *sblocks(passes.first, 3),
            f"            # {anchor} moves",
            *sblocks(passes.moving, 3),
            f"            # the second half: what reads {anchor}",
            *sblocks(passes.second, 3),
            "        # outputs",
            *sblocks(passes.after, 2),
        ]
    )


def _range(roles: Roles, intervals: Intervals) -> list[str]:
    """The columns that a row visits: those that it sees, and none where it is padding."""
    row, columns = roles.row.var, intervals.columns
    valid = tirx.all(row >= intervals.rows.begin, row < intervals.rows.end)
    return [
        f"begin = {columns.begin}",
        f"end = {tirx.Select(valid, columns.end, columns.begin)}",
    ]


def _sblock(stage: Stage, axes: Sequence[Axis], extents: dict[Axis, str]) -> list[str]:
    at = ", ".join(map(str, stage.place or stage.indices))
    place = f"{stage.buffer.name}[{at}]"
    value = stage.value if stage.combine is None else stage.combine(load(stage), stage.value)
    init = [] if stage.init is None else ["with T.init():", f"    {place} = {stage.init}"]
    stored = [*init, f"{place} = {value}"]
    if stage.where is not None:
        stored = [f"if {stage.where}:", *_indented(stored, 1)]
    block = [f'with T.sblock("{stage.name}"):', *_indented(stored, 1)]
    if not axes:
        return block
    return [_loop(axes, [extents[axis] for axis in axes]), *_indented(block, 1)]


def _loop(axes: Sequence[Axis], extents: Sequence[str]) -> str:
    names = ", ".join(str(axis.var) for axis in axes)
    if len(axes) > 1:
        return f"for {names} in T.grid({', '.join(extents)}):"
    (extent,) = extents
    return f"for {names} in {extent if extent == _TILE_COLUMNS else f'range({extent})'}:"


def _parameter(buffer: Buffer) -> str:
    sizes = [str(size) for size in buffer.shape]
    shape = f"({sizes[0]},)" if len(sizes) == 1 else f"({', '.join(sizes)})"
    return f'{buffer.name}: T.Buffer({shape}, "{dtype_of(buffer)}"),'


def _indented(lines: Iterable[str], depth: int) -> Iterator[str]:
    return (f"{'    ' * depth}{line}" for line in lines)
