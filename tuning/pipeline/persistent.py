"""A grid of as many blocks as run at once, each of which takes one tile of queries after another.

A block of its own for every tile waits alone for its first loads and its last stores. Here the
loads that the next tile begins with are started before this one's output is written: rings go on
where the tile before left them, and the query's slot is free once the last scores are there. Warps
meet nowhere between tiles. A tile without keys touches no ring.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..errors import PipelineError
from ..intrinsics import WARPGROUP
from ..intrinsics.uniform import uniform
from .across_lanes import across_lanes
from .annotations import (
    BULK,
    BULK_ONCE,
    HALVES,
    LAUNCH_BOUNDS,
    LOADS,
    LOADS_AFTER,
    MIN_BLOCKS,
    PERSISTENT,
    PRODUCER,
    SECTIONS,
)
from .halves import by_turns
from .leaving import skipped
from .longest_first import Order
from .orders import Following, begun_turns, computed, first_loads
from .outputs import from_registers, written_by_warps
from .placing import Places, is_bound, searched
from .producer import divided, spread
from .rings import Ring, begin_rings, rings_of, sblock_of
from .scopes import SCOPE
from .steps import (
    at,
    bound_through,
    changed,
    in_other_terms,
    int32,
    is_annotated,
    sequence,
    stored,
    stores_of,
    substituted,
    synchronized,
)
from .taking import Item, Taken, TakenInSections
from .telling import Told, variables_in
from .without_keys import without_keys


def persistent(nest: Any, rings: list[Ring]) -> Any:
    """The grid in the place of loops bound to blocks; what it loads through goes to ``rings``.

    Raises
    ------
    PipelineError
        If these are not loops over sequences, heads and tiles, or the loop within has no rings.
    """
    grid = _Grid.of(nest)
    rings += grid.rings
    return grid.rewritten()


@dataclass(frozen=True, eq=False)
class _Grid:
    """What is rewritten.

    Parameters
    ----------
    loops : tuple
        Bound to blocks: over sequences, heads and tiles of queries; or, of packed sequences, over
        heads and the tiles of all.
    realize : s_tir.SBlockRealize
        Of one tile, within them.
    binds, others : list
        Of its statements, what is bound before all else, and all others but the load of the query.
        Where it is searched for the sequence of a tile, the search is the first of what is bound.
    loop : tirx.For
        The one over key tiles.
    rings : list of Ring
        Of the query, keys and values.
    query : tirx.Buffer
        The query's tile as the steps know it, of whose ring it is one slot.
    memory : list of tirx.Buffer
        Of a tile, with that of the query and of rings.
    """

    loops: tuple[Any, ...]
    realize: Any
    binds: list[Any]
    others: list[Any]
    loop: Any
    rings: list[Ring]
    query: Any
    memory: list[Any]

    @classmethod
    def of(cls, nest: Any) -> _Grid:
        """The parts of loops bound to blocks."""
        from tvm import s_tir, tirx

        loops, inner = [], nest
        while isinstance(inner, tirx.For):
            loops.append(inner)
            inner = inner.body
        body: Any = inner.block.body if isinstance(inner, s_tir.SBlockRealize) else None
        stmts: list[Any] = list(body.seq) if isinstance(body, tirx.SeqStmt) else []
        binds = list(itertools.takewhile(is_bound, stmts))
        if len(loops) != (2 if searched(binds) else 3):
            raise PipelineError(
                f"a grid of {len(loops)} loops cannot persist: it needs three, over sequences, "
                "heads and tiles of queries, around one sblock; or two, over heads and tiles, in "
                "which the sequence of a tile is searched for"
            )
        once = [each for each in stmts if is_annotated(each, BULK_ONCE)]
        found = [each for each in stmts if is_annotated(each, PERSISTENT)]
        if len(once) != 1 or len(found) != 1 or BULK not in found[0].annotations:
            raise PipelineError(
                f"a loop with {PERSISTENT} needs {BULK} too, and beside it one load with "
                f"{BULK_ONCE}"
            )
        loop: Any = found[0]
        sections, heads = int(loop.annotations.get(SECTIONS, 1)), loops[-2].extent
        produces = PRODUCER in loop.annotations
        if sections > 1 and (not produces or int(heads) % sections):
            raise PipelineError(
                f"{heads} heads cannot be taken in {sections} sections: {SECTIONS} needs "
                f"{PRODUCER} too, and must divide the number of heads"
            )
        loads = [*once, *loop.body.seq[: int(loop.annotations[LOADS])]]
        others = [each for each in stmts[len(binds) :] if each is not once[0]]
        tile: Any = inner
        own = list(tile.block.alloc_buffers)
        freed = from_registers(others, own) if produces else None
        others, own = freed or (others, own)
        rings = rings_of(loads, alone=produces, queries=2 if freed else 1)
        query = sblock_of(once[0]).body.buffer
        return cls(tuple(loops), inner, binds, others, loop, rings, query, own)

    def rewritten(self) -> Any:
        """The grid."""
        from tvm import s_tir, tirx

        zero, block = int32(0), self._block
        # Tiles of keys that rings held, and of queries where turns do not say it.
        counts = 1 if self._produces else 2
        held = tirx.decl_buffer((counts,), "int32", name="held", scope="local")
        shared = [ring.buffer for ring in self.rings]
        touching, used, touched = self._places.touched()
        stmts = [
            *(stored(held, zero, index) for index in range(counts)),
            *touching,
            begin_rings(self.rings, self._warps),
            *([] if self._produces else begun_turns(self.loop)),
            *(stmt for _, reading in self._extents for stmt in reading),
            *used,
            self._places.ordered(self.loop.extent),
            *([] if self._produces else [self._first_loads(Item(block), zero, zero)]),
            synchronized(),
            self._turns(held, shared),
        ]
        bounds = int32(int(self.loop.annotations.get(MIN_BLOCKS, 1)))
        scope = tirx.AttrStmt(zero, SCOPE, zero, tirx.SeqStmt(stmts))
        body = tirx.AttrStmt(zero, LAUNCH_BOUNDS, bounds, scope)
        counted = [store.buffer for _, reading in self._extents for store in reading[:1]]
        buffers = [
            self.rings[0].barriers,
            held,
            *shared,
            *self._order.buffers,
            *self._with_keys.buffers,
            *self._stored,
            *counted,
            *touched,
            *(self._told.buffers if self._produces else []),
        ]
        items = math.prod(loop.extent for loop in self.loops)  # whoever launches reads no memory
        count: Any = tirx.min(self._blocks, items)
        whole = s_tir.SBlock([], [], [], "items", body, alloc_buffers=buffers)
        return tirx.For(
            block, zero, count, tirx.ForKind.THREAD_BINDING,
            s_tir.SBlockRealize([], True, whole), self.loops[-1].thread_binding,
        )  # fmt: skip

    @cached_property
    def _blocks(self) -> Any:
        """How many blocks run at once."""
        annotations = self.loop.annotations
        return int32(int(annotations[PERSISTENT]) * int(annotations.get(MIN_BLOCKS, 1)))

    @cached_property
    def _block(self) -> Any:
        from tvm import tirx

        return tirx.Var("block", "int32")

    @cached_property
    def _order(self) -> Order:
        sizes = tuple(extent for extent, _ in self._extents)
        return Order(sizes, (4, 8, self._warps + WARPGROUP * self._produces), self._sections)

    @cached_property
    def _places(self) -> Places:
        return Places(self.loops, self.realize, self.binds, self._order)

    @cached_property
    def _with_keys(self) -> Taken:
        """The items that see keys."""
        from tvm import tirx

        block, blocks, some = self._block, self._blocks, self._order.with_keys
        if self._sections == 1:
            return Taken(block, blocks, some)
        there = tirx.min(blocks, self._order.items)
        return TakenInSections(block, there, some, self._sections)

    @property
    def _sections(self) -> int:
        """That heads are taken in."""
        return int(self.loop.annotations.get(SECTIONS, 1))

    @cached_property
    def _extents(self) -> list[tuple[Any, list[Any]]]:
        """How often each loop turns, and the statements that this is read by.

        What divides sizes of a call goes through memory: TVM's passes put the expression into every
        condition and index, and try to prove things of it, for a minute.
        """
        from tvm import tirx

        def extent_of(loop: Any) -> tuple[Any, list[Any]]:
            if isinstance(loop.extent, tirx.IntImm | tirx.Var):
                return loop.extent, []
            name = f"{loop.loop_var.name}_extent"
            read = tirx.Var(name, "int32")
            memory = tirx.decl_buffer((1,), "int32", name, scope="local")
            return read, bound_through(memory, loop.extent, read)

        return [extent_of(loop) for loop in self.loops]

    @cached_property
    def _stored(self) -> list[Any]:
        """Local memory in which what is bound is found, for one tile after another."""
        return [*dict.fromkeys(each.buffer for each in stores_of(*self.binds))]

    @property
    def _warps(self) -> int:
        """That compute."""
        return int(self.loop.annotations[BULK])

    @property
    def _produces(self) -> bool:
        """Whether a warpgroup of its own loads."""
        return PRODUCER in self.loop.annotations

    def _turns(self, held: Any, shared: Sequence[Any]) -> Any:
        """One tile of queries after another; each thread of the two kinds counts what was held."""
        from tvm import tirx

        everything = Taken(self._block, self._blocks, self._order.items)
        some = self._with_keys if self._produces else everything

        def every(step: Callable[[Any], Any], taken: Taken) -> Any:
            turn = tirx.Var("turn", "int32")
            return tirx.For(turn, int32(0), taken.turns, tirx.ForKind.SERIAL, step(turn))

        def tile(turn: Any) -> Any:
            if not self._produces:
                return self._tile_found(some.item(turn), some.item(turn + 1), held, shared)
            stmt = self._tile_told(turn, held, shared)
            return by_turns(stmt, turn, self._warps) if HALVES in self.loop.annotations else stmt

        def load(turn: Any) -> Any:
            return self._all_loads(some.item(turn), turn, held)

        def idle(warp: Any) -> Any:
            return every(lambda turn: self._if_empty(everything.item(turn), warp), everything)

        if not self._produces:
            return every(tile, everything)
        # Who computes and who loads has nothing to do where there are no keys.
        blocks = int(self.loop.annotations.get(MIN_BLOCKS, 1))
        computes = [*begun_turns(self.loop), every(tile, some)]
        parts = divided(computes, every(load, some), idle, self._warps, blocks)
        return tirx.SeqStmt([self._order.known, *some.begin, parts])

    def _if_empty(self, item: Item, warp: Any) -> Any:
        """Write the outputs of a tile that sees no keys, beside those that compute others."""
        from tvm import tirx

        found, where = self._order.place(item)
        stmts, known = self._places.at(where)
        steps = [at(self.loop, [each], self.loop.min) for each in without_keys(self.others)]
        steps = [in_other_terms(each, known) for each in steps]
        skips = [skip[0] for each in self.others if (skip := skipped(each))]
        written = (tirx.Not(substituted(each, known)) for each in skips)
        empty = tirx.all(
            substituted(self.loop.extent, known) <= 0, *written, self._places.there(known)
        )
        done = tirx.IfThenElse(empty, spread(steps, warp, self._warps), None)
        return tirx.SeqStmt([*found, *stmts, done])

    def _all_loads(self, item: Item, turn: Any, held: Any) -> Any:
        """All loads of a tile of queries, in the order in which their slots become free."""
        from tvm import tirx

        found, where = self._order.place(item)
        stmts, known = self._places.at(where)
        tiles = tirx.Var("tiles_before", "int32")
        begin, extent = (substituted(each, known) for each in (self.loop.min, self.loop.extent))
        query, keys, values = self.rings
        query = query.elsewhere(known, turn)
        keys, values = (ring.elsewhere(known, tiles) for ring in (keys, values))
        step: Any = tirx.Var("step", "int32")
        more = tirx.IfThenElse(step + 1 < extent, keys.load(begin + step + 1), None)
        told = [query.free(int32(0)), *self._told.say(known, turn)]
        query_first = [*told, query.load(int32(0)), keys.load(begin)]
        # The only slot of queries becomes free later than one of keys.
        keys_first = [keys.load(begin), *told, query.load(int32(0))]
        loads = [
            tirx.Bind(tiles, held[0]),
            *(query_first if query.slots > 1 else keys_first),
            tirx.For(
                step, int32(0), extent, tirx.ForKind.SERIAL,
                tirx.SeqStmt([more, values.load(begin + step)]),
            ),
            stored(held, tiles + extent, 0),
        ]  # fmt: skip
        nothing = tirx.SeqStmt([*told, query.filled(int32(0))])
        return tirx.SeqStmt(
            [*found, *stmts, tirx.IfThenElse(extent > 0, tirx.SeqStmt(loads), nothing)]
        )

    @cached_property
    def _told(self) -> Told:
        """What those that compute are told of a tile of queries."""
        place, bound = self._places.variables
        used = variables_in(bound, [self.loop, *self.others])
        told = (each for each in used if each not in self._places.constants)
        return Told((*place, *told), self.rings[0].slots, self.rings[0].barriers)

    def _tile_told(self, turn: Any, held: Any, shared: Sequence[Any]) -> Any:
        """One tile of queries, of which the thread that loads tells; ``held`` tiles of keys."""
        from tvm import tirx

        tiles = tirx.Var("tiles_before", "int32")
        work, query = self._work(tiles, turn, shared, lambda _: [])
        body = [
            query.arrived(int32(0)),
            *self._told.hear(turn),
            *(tirx.Bind(*each) for each in self._places.constants.items()),
            *_read_once(tiles, held[0], held, 0),
        ]
        done = sequence([*work, stored(held, tiles + self.loop.extent, 0)])
        # A tile without keys is another warp's, and so it is no matter which of those are skipped.
        others = [each for each in self.others if not skipped(each)]
        stmts = sequence(self._steps(done, others))
        some = self.loop.extent > 0
        nothing = query.done(int32(0))
        tile = tirx.IfThenElse(self._places.there({}), tirx.IfThenElse(some, stmts, nothing), None)
        return self._allocated([*body, tile], [], shared)

    def _tile_found(self, item: Item, following: Item, held: Any, shared: Sequence[Any]) -> Any:
        """One tile of queries; rings held what ``held`` says: tiles of keys, and of queries."""
        from tvm import tirx

        block = self.realize.block
        place = tirx.decl_buffer((len(block.iter_vars),), "int32", name="place", scope="local")
        tiles, queries = tirx.Var("tiles_before", "int32"), tirx.Var("queries_before", "int32")
        found, where = self._order.place(item)
        values = self._places.values(where).values()
        body = [
            *found,
            *(
                stmt
                for each, value, index in zip(
                    block.iter_vars, values, range(len(values)), strict=True
                )
                for stmt in _read_once(each.var, value, place, index)
            ),
            *_read_once(tiles, held[0], held, 0),
            *_read_once(queries, held[1], held, 1),
        ]
        after_this = tiles + self.loop.extent, queries + 1

        def next_loads(part: slice) -> list[Any]:
            return [self._first_loads(following, *after_this, part)]

        work, query = self._work(tiles, queries, shared, next_loads)
        counted = (stored(held, value, index) for index, value in enumerate(after_this))
        done = tirx.SeqStmt([query.arrived(int32(0)), *work, *counted])
        binds = [
            in_other_terms(each, self._places.at_loops(where))
            for each in self._places.found(uniform)
        ]
        other = self._first_loads(following, tiles, queries)
        # What is done for a tile that is skipped is what is to be done for one without keys.
        cleared = any(skip[1] for each in self.others if (skip := skipped(each)))
        inner = done if cleared else tirx.IfThenElse(self.loop.extent > 0, done, other)
        rest = [*binds, *_either(self._steps(inner, self.others), other)]
        stmts = tirx.IfThenElse(self._places.there({}), tirx.SeqStmt(rest), None)
        return self._allocated([*body, stmts], [place], shared)

    def _work(
        self, tiles: Any, queries: Any, shared: Sequence[Any], following: Following
    ) -> tuple[list[Any], Ring]:
        """What computes with a tile of queries, and the ring that this is in.

        Parameters
        ----------
        tiles, queries : Var
            How many of each the rings held before.
        following : Callable
            From a part of the loads that the next tile begins with to these.
        """
        loop = self.loop
        first, after = int(loop.annotations[LOADS]), int(loop.annotations[LOADS_AFTER])
        query, *others = shared
        there = {self.query: (query, queries), **{each: (each, tiles) for each in others}}
        steps = [_later(self._shuffled(each), there) for each in loop.body.seq[first:]]
        of_queries, *rings = self.rings
        here = [of_queries.elsewhere({}, queries), *(ring.elsewhere({}, tiles) for ring in rings)]
        return computed(loop, here, steps, after, following), here[0]

    def _allocated(self, stmts: Sequence[Any], memory: Sequence[Any], shared: Sequence[Any]) -> Any:
        """The statements of a tile in an sblock with memory of its own."""
        from tvm import s_tir, tirx

        outside = [*shared, self.query, *self._stored]
        own = [each for each in self.memory if not any(map(each.same_as, outside))]
        return s_tir.SBlockRealize(
            [], True,
            s_tir.SBlock(
                [], [], [], self.realize.block.name_hint,
                tirx.SeqStmt(list(stmts)),
                alloc_buffers=[*memory, *own],
            ),
        )  # fmt: skip

    def _steps(self, inner: Any, others: Sequence[Any]) -> list[Any]:
        """The steps of a tile, with ``inner`` in the place of the loop."""
        return written_by_warps(
            [inner if each is self.loop else self._shuffled(each) for each in others]
        )

    def _shuffled(self, stmt: Any) -> Any:
        """A step of what computes, and nothing else."""
        return across_lanes(stmt) if self._produces else stmt

    def _first_loads(self, item: Item, tiles: Any, queries: Any, part: slice = slice(None)) -> Any:
        """Start loads that an item begins with, if there is one and it has keys."""
        from tvm import tirx

        found, where = self._order.place(item)
        stmts, known = self._places.at(where)
        query, *others = self.rings
        there = [query.elsewhere(known, queries), *(r.elsewhere(known, tiles) for r in others)]
        begin, extent = (substituted(each, known) for each in (self.loop.min, self.loop.extent))
        loads = first_loads(self.loop, there, begin, extent)[part]
        some = tirx.IfThenElse(extent > 0, sequence(loads), None)
        there_is = item.number < self._order.items
        return tirx.IfThenElse(there_is, tirx.SeqStmt([*found, *stmts, some]), None)


def _read_once(var: Any, value: Any, buffer: Any, index: int) -> list[Any]:
    """Bind a value that is the same for a warp."""
    return bound_through(buffer, uniform(value), var, index)


def _either(stmts: Sequence[Any], skipping: Any) -> list[Any]:
    """The statements of a tile, or of one that is skipped ``skipping`` and what is done for it."""
    from tvm import tirx

    found = [(index, skip) for index, each in enumerate(stmts) if (skip := skipped(each))]
    if not found:
        return list(stmts)
    ((index, (where, done)),) = found
    others = sequence(stmts[index + 1 :])
    return [*stmts[:index], tirx.IfThenElse(where, sequence([skipping, *done]), others)]


def _later(step: Any, rings: Mapping[Any, tuple[Any, Any]]) -> Any:
    """A step that reads rings which have held a number of tiles before the loop's first.

    Parameters
    ----------
    rings : Mapping
        From a buffer that the step reads to the ring that it is, or one slot of it, and that
        number.
    """
    from tvm import s_tir
    from tvm.ir import Range
    from tvm.s_tir.stmt import MatchBufferRegion
    from tvm.tirx.stmt import BufferRegion

    def region(old: Any) -> Any:
        if old.source not in rings:
            return old
        ring, before = rings[old.source]
        slots, *others = old.region
        if len(ring.shape) > len(old.region):
            slots, others = Range.from_min_extent(int32(0), int32(1)), old.region
        elif len(ring.shape) == 3:
            return old
        there = Range.from_min_extent((slots.min + before) % ring.shape[0], int32(1))
        return BufferRegion(ring, [there, *others])

    def change(part: Any) -> Any:
        reads = isinstance(part, s_tir.SBlock) and any(old.source in rings for old in part.reads)
        if not reads:
            return None
        views = [MatchBufferRegion(each.buffer, region(each.source)) for each in part.match_buffers]
        return s_tir.SBlock(
            part.iter_vars, [*map(region, part.reads)], part.writes, part.name_hint, part.body,
            part.init, part.alloc_buffers, views, part.annotations,
        )  # fmt: skip

    return changed(step, change)
