"""Loading the next tile while one is computed with, in a loop that keeps one copy of what computes.

TVM's ``InjectSoftwarePipeline`` emits copies of every step before and behind the loop, which cost a
kernel full of tensor-core accumulators its registers. Here the loads alone are copied; or, where
products are to overlap with the steps between them, the steps of the first tile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from .intrinsics import JOIN, WAIT, commit_loads, with_pending
from .rings import Ring, begin_rings, rings_of

#: Annotation of a loop: how many of its first steps load what the others use.
LOADS = "prefill.loads"

#: Annotation of such a loop: how many of the other steps come before the loads of the next tile.
LOADS_AFTER = "prefill.loads_after"

#: Annotation of such a loop: its first step behind the loads and its last one are ``wgmma``
#: products, and the second product of a tile runs while the other steps of the next one do.
OVERLAP = "prefill.overlap"

#: Annotation of a loop whose products overlap: its loads are bulk copies into rings of tiles, which
#: as many warps read. The value is that number.
BULK = "prefill.bulk"

#: Annotation of a loop: thread blocks that one multiprocessor shall hold, which bounds registers.
MIN_BLOCKS = "prefill.min_blocks"

_OURS = (LOADS, LOADS_AFTER, OVERLAP, BULK, MIN_BLOCKS)
_LAUNCH_BOUNDS = "tirx.launch_bounds_min_blocks_per_sm"


def pipeline(module: Any) -> Any:
    """Rewrite the annotated loops of every function of a scheduled module.

    ``for t in range(n): load(t); first(t); rest(t)`` becomes
    ``if n > 0: load(0)``, then ``for t in range(n): first(t); if t + 1 < n: load(t + 1); rest(t)``.

    With :data:`OVERLAP`, ``load`` being two loads, ``first`` a product of what the first of them
    brought and the last step one of what the second did, it becomes a loop whose first product is a
    tile ahead of its second (as in FlashAttention-3, Shah et al. 2024, section 3.2): in it both are
    started, then come the steps between those products, and the second is waited for before what it
    reads is overwritten.

    With :data:`BULK` besides, no thread copies anything, and warps of a block run apart as far as
    their rings let them: they wait for tiles, and not for each other.

    What is computed stays the same; a module without annotations is returned as it is.

    Raises
    ------
    ValueError
        If the annotations do not fit the loop.
    """
    import tvm
    from tvm.tirx import PrimFunc, SeqStmt

    def rewritten(function: Any) -> Any:
        if not isinstance(function, PrimFunc):
            return function
        whole: Any = function
        rings: list[Ring] = []
        body = _changed(whole.body, partial(_pipelined, rings=rings))
        sources = [stmt for ring in rings for stmt in ring.describe_source()]
        return whole.with_body(SeqStmt([*sources, body]) if sources else body)

    functions = {name: rewritten(each) for name, each in module.functions.items()}
    return tvm.IRModule(functions, attrs=module.attrs)


def _changed(stmt: Any, change: Callable[[Any], Any]) -> Any:
    """A statement with what ``change`` gives, where it gives something, in the place of parts."""
    from tvm import s_tir, tirx

    new = change(stmt)
    if new is not None:
        return new
    if isinstance(stmt, tirx.For):
        body = _changed(stmt.body, change)
        if body is stmt.body:
            return stmt
        return tirx.For(
            stmt.loop_var, stmt.min, stmt.extent, stmt.kind, body,
            stmt.thread_binding, stmt.annotations, stmt.step,
        )  # fmt: skip
    if isinstance(stmt, tirx.SeqStmt):
        steps = [_changed(each, change) for each in stmt.seq]
        if all(new is old for new, old in zip(steps, stmt.seq, strict=True)):
            return stmt
        return tirx.SeqStmt(steps)
    if isinstance(stmt, s_tir.SBlockRealize):
        block = stmt.block
        body = _changed(block.body, change)
        if body is block.body:
            return stmt
        inner = s_tir.SBlock(
            block.iter_vars, block.reads, block.writes, block.name_hint, body,
            block.init, block.alloc_buffers, block.match_buffers, block.annotations,
        )  # fmt: skip
        return s_tir.SBlockRealize(stmt.iter_values, stmt.predicate, inner)
    return stmt


def _pipelined(loop: Any, rings: list[Ring]) -> Any:
    """The loop rewritten, if it is an annotated one; what it loads through goes to ``rings``."""
    from tvm import tirx

    if not _is_annotated(loop):
        return None
    steps = list(loop.body.seq)
    loads, after = int(loop.annotations[LOADS]), int(loop.annotations[LOADS_AFTER])
    if not (0 < loads < len(steps) and 0 < after <= len(steps) - loads):
        raise ValueError(
            f"a loop of {len(steps)} steps says that {loads} of them load, after {after} of the "
            "others; some must load, some must compute, and at least one of these comes first"
        )
    if BULK in loop.annotations:
        rewritten = _ringed(loop, steps[:loads], steps[loads:], after, rings)
    elif OVERLAP in loop.annotations:
        rewritten = _overlapped(loop, steps[:loads], steps[loads:], after)
    else:
        rewritten = _prefetched(loop, steps[:loads], steps[loads:], after)
    min_blocks = loop.annotations.get(MIN_BLOCKS)
    if min_blocks is None:
        return rewritten
    return tirx.AttrStmt(0, _LAUNCH_BOUNDS, min_blocks, rewritten)


def _is_annotated(stmt: Any) -> bool:
    from tvm import tirx

    return isinstance(stmt, tirx.For) and LOADS in stmt.annotations


def _prefetched(loop: Any, loads: Sequence[Any], others: Sequence[Any], after: int) -> Any:
    from tvm import tirx

    t, begin = loop.loop_var, loop.min
    body = [*others[:after], _if_any(loop, loads, t + 1), *others[after:]]
    return tirx.SeqStmt([_if_any(loop, loads, begin), _serial(loop, t, begin, loop.extent, body)])


def _overlapped(loop: Any, loads: Sequence[Any], others: Sequence[Any], after: int) -> Any:
    """See :func:`pipeline`; the loads of the first product are a tile ahead of the others too."""
    from tvm import tirx

    if len(loads) != 2:
        raise ValueError(f"a loop of {len(loads)} loads cannot overlap its products: it needs two")
    first, between, operand, second = _parts(others, after)
    begin, count = loop.min, loop.extent
    before = [
        _at(loop, loads[:1], begin),
        tirx.Evaluate(commit_loads()),
        _if_any(loop, loads[:1], begin + 1),
        _at(loop, loads[1:], begin),
        _joining(first, 1),
        _at(loop, [_without(JOIN, first), *between, operand], begin),
    ]
    # Zero-based: TVM shifts a loop that is not, and misses where loops within it begin.
    step: Any = tirx.Var("step", loop.loop_var.ty)
    t = begin + 1 + step
    within = [
        _joining(first, 0),
        _at(loop, [_without(JOIN, _without(WAIT, first))], t),
        _at(loop, [_without(WAIT, second)], t - 1),
        _at(loop, [_waiting(first, 1), *between[: after - 1]], t),
        _if_any(loop, loads[:1], t + 1),
        _at(loop, loads[1:], t),
        _at(loop, [*between[after - 1 :], _waiting(second, 0), operand], t),
    ]
    last = [_joining(first, 0), _at(loop, [second], begin + count - 1)]
    whole = tirx.SeqStmt(
        [*before, _serial(loop, step, tirx.const(0, step.ty.dtype), count - 1, within), *last]
    )
    return tirx.IfThenElse(count > 0, whole, None)


def _ringed(
    loop: Any, loads: Sequence[Any], others: Sequence[Any], after: int, rings: list[Ring]
) -> Any:
    """See :func:`pipeline`; in the order of :func:`_prefetched` or :func:`_overlapped`."""
    from tvm import s_tir, tirx

    if len(loads) != 2 or len(others) < 2:
        raise ValueError(
            f"a loop of {len(loads)} loads and {len(others)} other steps cannot load bulk-wise: it "
            "needs two loads and the two products that read what these bring, first and last"
        )
    (keys, values), barriers = rings_of(loads)
    rings += keys, values
    order = _overlapped_rings if OVERLAP in loop.annotations else _prefetched_rings
    whole = [
        begin_rings([keys, values], int(loop.annotations[BULK])),
        keys.load(loop.min),
        values.load(loop.min),
        *order(loop, keys, values, others, after),
    ]
    block = s_tir.SBlock(
        [], [], [], "rings", tirx.IfThenElse(loop.extent > 0, tirx.SeqStmt(whole), None),
        alloc_buffers=[barriers],
    )  # fmt: skip
    return s_tir.SBlockRealize([], True, block)


def _prefetched_rings(
    loop: Any, keys: Ring, values: Ring, others: Sequence[Any], after: int
) -> list[Any]:
    from tvm import tirx

    first, *between, second = others
    t, end = loop.loop_var, loop.min + loop.extent
    following = tirx.SeqStmt([keys.load(t + 1), values.load(t + 1)])
    body = [
        keys.arrived(t),
        _without(JOIN, first),
        keys.done(t),
        *between[: after - 1],
        tirx.IfThenElse(t + 1 < end, following, None),
        *between[after - 1 :],
        values.arrived(t),
        values.clear_past_the_end(t),
        second,
        values.done(t),
    ]
    return [_joining(first, 0), _serial(loop, t, loop.min, loop.extent, body)]


def _overlapped_rings(
    loop: Any, keys: Ring, values: Ring, others: Sequence[Any], after: int
) -> list[Any]:
    from tvm import tirx

    first, between, operand, second = _parts(others, after)
    begin, count = loop.min, loop.extent
    end = begin + count
    started = _without(JOIN, first)

    def next_keys(tile: Any) -> Any:
        return tirx.IfThenElse(tile < end, keys.load(tile), None)

    before = [
        next_keys(begin + 1),
        _joining(first, 0),
        keys.arrived(begin),
        _at(loop, [started], begin),
        keys.done(begin),
        _at(loop, [*between, operand], begin),
    ]
    step: Any = tirx.Var("step", loop.loop_var.ty)
    t = begin + 1 + step
    within = [
        keys.arrived(t),
        _at(loop, [_without(WAIT, started)], t),
        values.arrived(t - 1),
        _at(loop, [_without(WAIT, second)], t - 1),
        _at(loop, [_waiting(first, 1)], t),
        keys.done(t),
        *([_at(loop, between[: after - 1], t)] if after > 1 else []),
        next_keys(t + 1),
        values.load(t),
        _at(loop, [*between[after - 1 :], _waiting(second, 0)], t),
        values.done(t - 1),
        _at(loop, [operand], t),
    ]
    last = [
        values.arrived(end - 1),
        values.clear_past_the_end(end - 1),
        _at(loop, [second], end - 1),
    ]
    zero = tirx.const(0, step.ty.dtype)
    return [*before, _serial(loop, step, zero, count - 1, within), *last]


def _parts(others: Sequence[Any], after: int) -> tuple[Any, list[Any], Any, Any]:
    """First product, steps between, the last one of them, and second product.

    Raises
    ------
    ValueError
        If the loop has no such steps.
    """
    if len(others) < 4 or after > len(others) - 2:
        raise ValueError(
            f"a loop whose next loads come after {after} of {len(others)} steps cannot overlap its "
            "products: it needs two products with two or more steps between them, the last of "
            "which comes after the next loads"
        )
    first, *between, operand, second = others
    return first, between, operand, second


def _serial(loop: Any, var: Any, begin: Any, extent: Any, body: Sequence[Any]) -> Any:
    """The loop over other indices, with another body."""
    from tvm import tirx

    kept = {name: value for name, value in loop.annotations.items() if name not in _OURS}
    return tirx.For(var, begin, extent, loop.kind, tirx.SeqStmt(list(body)), annotations=kept)


def _joining(product: Any, pending: int) -> Any:
    """What a product does to join loads, but for groups of them that need not have arrived."""
    from tvm import tirx

    (call,) = _calls(product, JOIN)
    return tirx.Evaluate(with_pending(call, pending))


def _waiting(product: Any, pending: int) -> Any:
    """What is left of a product that waits, but for products that need not have ended."""
    from tvm import s_tir, tirx

    def change(part: Any) -> Any:
        if _is_call(part, WAIT):
            return tirx.Evaluate(with_pending(part.value, pending))
        leaves = (tirx.Evaluate, s_tir.SBlockRealize)
        return (
            None
            if _calls(part, WAIT) or not isinstance(part, leaves)
            else tirx.Evaluate(tirx.const(0, "int32"))
        )

    return _changed(product, change)


def _without(function: str, step: Any) -> Any:
    """A step without its calls of a function whose name begins so."""
    from tvm import tirx

    return _changed(
        step,
        lambda part: tirx.Evaluate(tirx.const(0, "int32")) if _is_call(part, function) else None,
    )


def _calls(stmt: Any, function: str) -> list[Any]:
    """The calls of a function whose name begins so."""
    found = []

    def visit(part: Any) -> None:
        if _is_call(part, function):
            found.append(part.value)

    _changed(stmt, visit)
    return found


def _is_call(stmt: Any, function: str) -> bool:
    from tvm import tirx
    from tvm.ir import Call, StringImm

    if not (isinstance(stmt, tirx.Evaluate) and isinstance(stmt.value, Call)):
        return False
    first = next(iter(stmt.value.args), None)
    return isinstance(first, StringImm) and first.value.startswith(function)


def _if_any(loop: Any, steps: Sequence[Any], tile: Any) -> Any:
    """A copy of the steps for another tile, if there is one."""
    from tvm import tirx

    return tirx.IfThenElse(tile < loop.min + loop.extent, _at(loop, steps, tile), None)


def _at(loop: Any, steps: Sequence[Any], tile: Any) -> Any:
    """A copy of the steps, with definitions of its own, for another tile."""
    from tvm import s_tir, tirx

    one = tirx.const(1, loop.loop_var.ty.dtype)
    body = steps[0] if len(steps) == 1 else tirx.SeqStmt(list(steps))
    single = tirx.For(loop.loop_var, loop.min, one, tirx.ForKind.SERIAL, body)
    reads, writes = _buffers(single)
    outer = [*dict.fromkeys([*reads, *writes])]
    copy = s_tir.renew_defs(tirx.PrimFunc(outer, single))
    # Renewed with the definitions are the buffers from outside, of which there is to be one.
    both = tirx.PrimFunc([*copy.params, *outer], copy.body)
    nest = both.specialize(dict(zip(copy.params, outer, strict=True))).body
    # A loop of one iteration puts another index in the place of the loop variable.
    return _scope(tirx.For(nest.loop_var, tile, one, tirx.ForKind.SERIAL, nest.body))


def _scope(stmt: Any) -> Any:
    """An sblock around: in each, a buffer has one writer, as a reduction over threads must be."""
    from tvm import s_tir

    reads, writes = ([*map(_whole, dict.fromkeys(each))] for each in _buffers(stmt))
    return s_tir.SBlockRealize([], True, s_tir.SBlock([], reads, writes, "tile", stmt))


def _buffers(stmt: Any) -> tuple[list[Any], list[Any]]:
    """The buffers that the sblocks of a statement read, and those that they write."""
    from tvm import s_tir

    reads, writes = [], []

    def visit(part: Any) -> Any:
        if not isinstance(part, s_tir.SBlockRealize):
            return None
        reads.extend(region.source for region in part.block.reads)
        writes.extend(region.source for region in part.block.writes)
        return part

    _changed(stmt, visit)
    return reads, writes


def _whole(buffer: Any) -> Any:
    from tvm import tirx
    from tvm.ir import Range
    from tvm.tirx.stmt import BufferRegion

    zero = tirx.const(0, "int32")
    return BufferRegion(buffer, [Range(zero, extent) for extent in buffer.shape])
