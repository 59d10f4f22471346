"""The pass that writes a nest as TIR."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tvm import s_tir, tirx
from tvm.ir import Range, Var

from .expressions import (
    Buffer,
    Expr,
    depends,
    element,
    equal,
    loads,
    substituted,
    variables,
    with_calls,
)
from .nest import Half, Kept, Nest, Search, Step
from .stages import Axis

#: What stands for calls of TIR's own functions of one argument, by their names.
Calls = Mapping[str, Callable[[Expr], Expr]]

_ZERO: Any = 0
_ONE: Any = 1
_UNROLLED = tirx.ForKind.UNROLLED
_SPATIAL, _REDUCE = tirx.IterVar.DataPar, tirx.IterVar.CommReduce


def emit(nest: Nest, parameters: Sequence[Buffer], attributes: Any, calls: Calls) -> tirx.PrimFunc:
    """The PrimFunc of ``nest``, with the parameters and the attributes of what it is made of."""
    block = s_tir.SBlock([], [], [], "root", _tile_of_rows(nest, parameters, calls))
    return tirx.PrimFunc(parameters, s_tir.SBlockRealize([], True, block), attrs=attributes)


def _tile_of_rows(nest: Nest, parameters: Sequence[Buffer], calls: Calls) -> Any:
    written = {step.buffer for step in nest.steps}
    bound = [value for _, value in nest.bindings]
    if nest.search is not None:
        bound.append(nest.search.holds(nest.search.var))
    buffers, body = _known(nest)
    if nest.only_where is None:
        body += _steps(nest, parameters, calls)
    elif nest.skips:
        skip = tirx.Evaluate(tirx.op.continue_loop())
        body += [tirx.IfThenElse(tirx.Not(nest.only_where), skip, None)]
        body += _steps(nest, parameters, calls)
    else:
        steps = _steps(nest, parameters, calls)
        body += [tirx.IfThenElse(nest.only_where, tirx.SeqStmt(steps), None)]
    loops = _loop_vars(nest.outer)
    *outside, tile = (var for var, _ in loops)
    extent: Any = nest.outer[-1].extent
    values = [*outside, extent - 1 - tile if nest.last_first else tile]
    block = s_tir.SBlock(
        [_iteration(axis, axis.var, _SPATIAL) for axis in nest.outer],
        _regions(nest, nest.steps, [each for each in parameters if each not in written], bound),
        _regions(nest, nest.steps, [each for each in parameters if each in written]),
        nest.name,
        tirx.SeqStmt(body),
        alloc_buffers=[
            *buffers,
            *_allocated(nest.steps, lambda kept: kept is not Kept.WITHIN),
        ],
    )
    return _nested(loops, s_tir.SBlockRealize(values, True, block))


def _known(nest: Nest) -> tuple[list[Buffer], list[Any]]:
    """Statements of what a tile of rows knows before anything else, and buffers of theirs."""
    buffers, body = [], []
    if nest.search is not None:
        ends = tirx.decl_buffer((2,), "int32", f"{nest.search.var.name}_ends", scope="local")
        buffers.append(ends)
        body += _searched(nest.search, ends)
    if not nest.loaded:
        return buffers, [*body, *(tirx.Bind(var, value) for var, value in nest.bindings)]
    known = tirx.decl_buffer((len(nest.bindings),), "int32", "known", scope="local")
    for number, (var, value) in enumerate(nest.bindings):
        place = [tirx.const(number, "int32")]
        body += [tirx.BufferStore(known, value, place), tirx.Bind(var, element(known, place))]
    return [*buffers, known], body


def _searched(search: Search, ends: Buffer) -> list[Any]:
    """A search by halves, between two ends."""
    begin, end = (element(ends, [index]) for index in (_ZERO, _ONE))
    middle: Any = (begin + end) // 2
    return [
        tirx.BufferStore(ends, search.begin, [_ZERO]),
        tirx.BufferStore(ends, search.end, [_ONE]),
        tirx.While(
            end - begin > 1,
            tirx.IfThenElse(
                search.holds(middle),
                tirx.BufferStore(ends, middle, [_ZERO]),
                tirx.BufferStore(ends, middle, [_ONE]),
            ),
        ),
        tirx.Bind(search.var, begin),
    ]


def _steps(nest: Nest, parameters: Sequence[Buffer], calls: Calls) -> list[Any]:
    """What is done for a tile of rows."""
    before = [_step(step, None, calls) for step in nest.before]
    if before and nest.before_where is not None:
        before = [tirx.IfThenElse(nest.before_where, _sequence(before), None)]
    after = [_step(step, None, calls) for step in nest.after]
    return [*before, _tiles_of_columns(nest, parameters, calls), *after]


def _tiles_of_columns(nest: Nest, parameters: Sequence[Buffer], calls: Calls) -> Any:
    loop = nest.tile.fresh("")
    body = [
        _half(nest, each, loop, parameters, calls)
        if isinstance(each, Half)
        else _step(each, (nest.tile, loop), calls)
        for each in nest.loop
    ]
    return _nested([(loop, nest.visited)], tirx.SeqStmt(body))


def _half(nest: Nest, half: Half, loop: Var, parameters: Sequence[Buffer], calls: Calls) -> Any:
    steps = half.steps
    made = [step.buffer for step in steps]
    read = _distinct(
        load.source for step in steps for value in step.values for load in loads(value)
    )
    given = [each for each in read if each not in made and each not in parameters]
    carried = [step.buffer for step in steps if step.kept is Kept.CARRIED]
    var = nest.tile.fresh("v")
    block = s_tir.SBlock(
        [_iteration(nest.tile, var, _REDUCE if carried else _SPATIAL)],
        [*_whole(given), *_regions(nest, steps, parameters), *_whole(carried)],
        _whole(step.buffer for step in steps if step.kept is not Kept.WITHIN),
        half.name,
        _sequence([_step(step, (nest.tile, var), calls) for step in steps]),
        alloc_buffers=_allocated(steps, lambda kept: kept is Kept.WITHIN),
    )
    return s_tir.SBlockRealize([loop], True, block)


def _step(step: Step, tile: tuple[Axis, Var] | None, calls: Calls) -> Any:
    """The loops and the sblock of ``step`` in a tile of columns, which has a variable around it."""
    loops = _loop_vars(step.axes)
    at_loop = {axis.var: var for axis, (var, _) in zip(step.axes, loops, strict=True)}
    own = {axis.var: axis.fresh("w") for axis in step.axes}
    iterations = [
        (_iteration(axis, own[axis.var], kind), at_loop[axis.var])
        for kind in (_SPATIAL, _REDUCE)
        for axis in step.axes
        if (kind is _REDUCE) == (axis.var in step.reduced)
    ]
    if tile is not None:
        axis, around = tile
        own[axis.var] = around
        numbered = step.at or step.tile
        if numbered is not None:
            own[axis.var] = axis.fresh("w")
            kind = _REDUCE if step.tile is not None and step.init is not None else _SPATIAL
            place = 0 if step.at is not None else len(step.axes) - len(step.reduced)
            iterations.insert(place, (_iteration(numbered, own[axis.var], kind), around))
    values: list[Any] = [value for _, value in iterations]
    where = True if step.where is None else substituted(step.where, at_loop)
    block = _block(step, [each for each, _ in iterations], own, calls)
    return _nested(loops, s_tir.SBlockRealize(values, where, block))


def _block(step: Step, iterations: list[Any], own: dict[Var, Var], calls: Calls) -> Any:
    def store(value: Expr) -> Any:
        loops = _loop_vars(step.unrolled)
        at = {axis.var: var for axis, (var, _) in zip(step.unrolled, loops, strict=True)}
        stored = with_calls(substituted(value, own | at), calls)
        indices = [substituted(index, own | at) for index in step.indices]
        return _nested(loops, tirx.BufferStore(step.buffer, stored, indices), _UNROLLED)

    body, init = store(step.value), None if step.init is None else store(step.init)
    if step.everywhere is not None:
        condition, value = step.everywhere
        body = tirx.IfThenElse(substituted(condition, own), store(value), body)
    if step.only_where is not None:
        body = tirx.IfThenElse(substituted(step.only_where, own), body, None)
    bare = s_tir.SBlock(iterations, [], [], step.name, body, init)
    read, written = _touched(step, bare)
    return s_tir.SBlock(iterations, read, written, step.name, body, init)


def _touched(step: Step, bare: Any) -> tuple[list[Any], list[Any]]:
    """What an sblock reads and writes; a reduction does not read what it adds to."""
    read_of = {load.source: load.source for value in step.values for load in loads(value)}
    buffers = read_of | {step.buffer: step.buffer}
    read, written, _ = s_tir.analysis.get_sblock_access_region(bare, buffers)
    if step.init is not None:
        read = [each for each in read if not each.source.same_as(step.buffer)]
    if step.unrolled:
        return [_wide(each) for each in read], [_wide(each) for each in written]
    return read, written


def _wide(region: Any) -> Any:
    """``region`` with all of a dimension of which it has more than one element.

    What a lane has of a row is not contiguous, and lanes write all of it together.
    """
    ranges = [
        part
        if isinstance(part.extent, tirx.IntImm) and part.extent.value == 1
        else Range(_ZERO, extent)
        for part, extent in zip(region.region, region.source.shape, strict=True)
    ]
    return tirx.BufferRegion(region.source, ranges)


def _allocated(steps: Sequence[Step], wanted: Callable[[Kept], bool]) -> list[Buffer]:
    return [step.buffer for kept in Kept if wanted(kept) for step in steps if step.kept is kept]


def _regions(
    nest: Nest, steps: Sequence[Step], parameters: Iterable[Buffer], values: Iterable[Expr] = ()
) -> list[Any]:
    """What ``steps`` and ``values`` touch of each of ``parameters``, of those that they touch."""
    exprs = [*(value for step in steps for value in step.values), *values]
    touched = [(load.source, load.indices) for expr in exprs for load in loads(expr)]
    touched += [(step.buffer, step.indices) for step in steps if step.kept is None]
    indices = dict(touched)
    return [
        tirx.BufferRegion(
            each, [_range(nest, *at) for at in zip(each.shape, indices[each], strict=True)]
        )
        for each in parameters
        if each in indices
    ]


def _range(nest: Nest, extent: Expr, index: Expr) -> Range:
    """What a tile of rows touches of a dimension that it indexes with ``index``."""
    known_within = any(depends(nest.row_begin, var) for var, _ in nest.bindings)
    if not known_within and equal(index, nest.row_begin + nest.row.var):
        return Range.from_min_extent(nest.row_begin, nest.row.extent)
    outside = [axis.var for axis in nest.outer[:-1]]
    if all(any(var.same_as(each) for each in outside) for var in variables(index)):
        return Range.from_min_extent(index, _ONE)
    return Range(_ZERO, extent)


def _whole(buffers: Iterable[Buffer]) -> list[Any]:
    return [
        tirx.BufferRegion(buffer, [Range(_ZERO, extent) for extent in buffer.shape])
        for buffer in buffers
    ]


def _iteration(axis: Axis, var: Var, kind: int) -> Any:
    return tirx.IterVar(Range(_ZERO, axis.extent), var, kind)


def _loop_vars(axes: Sequence[Axis]) -> list[tuple[Var, Expr]]:
    return [(axis.fresh(""), axis.extent) for axis in axes]


def _nested(
    loops: Sequence[tuple[Var, Expr]], body: Any, kind: tirx.ForKind = tirx.ForKind.SERIAL
) -> Any:
    for var, extent in reversed(loops):
        body = tirx.For(var, _ZERO, extent, kind, body)
    return body


def _sequence(statements: list[Any]) -> Any:
    return statements[0] if len(statements) == 1 else tirx.SeqStmt(statements)


def _distinct(buffers: Iterable[Buffer]) -> list[Buffer]:
    return list(dict.fromkeys(buffers))
