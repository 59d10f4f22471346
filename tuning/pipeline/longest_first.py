"""The order of the tiles of a persistent grid: those that see most keys first.

Every block makes the same table of it, from the lengths, before it begins. Where there are more
tiles than the table holds, they come in the order of the description, one tile of every sequence
after another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..intrinsics import ranking
from ..intrinsics.fragments import UNTRACKED
from ..intrinsics.uniform import uniform
from .steps import bound_through, int32, over_threads, stored, synchronized
from .taking import Item

#: Shared memory of the table.
RANKING_BYTES = 4 * ranking.TABLE_WORDS


@dataclass(frozen=True, eq=False)
class Sequences:
    """Sequences whose tiles are numbered one behind another.

    Parameters
    ----------
    count : PrimExpr
        Of them.
    first : Callable
        From a sequence to the number of its first tile; also of the one behind the last.
    pair : Callable
        From the number of a tile to its place in the order of the description.
    """

    count: Any
    first: Callable[[Any], Any]
    pair: Callable[[Any], Any]


@dataclass(frozen=True, eq=False)
class Order:
    """Tiles in their order.

    Parameters
    ----------
    sizes : tuple of PrimExpr
        Sequences, heads, and tiles of one sequence; or heads, and tiles of all sequences.
    threads : tuple of int
        Of a block, (x, y, z).
    sections : int
        That tiles with keys come in: all of some heads, before those of the next ones.
    """

    sizes: tuple[Any, ...]
    threads: tuple[int, int, int]
    sections: int = 1

    @cached_property
    def _table(self) -> Any:
        from tvm import tirx

        return tirx.decl_buffer((ranking.TABLE_WORDS,), "int32", name="ranking", scope="shared.dyn")

    @cached_property
    def _found(self) -> Any:
        """What was read of the table: what is bound to that, and not to a call, is read once."""
        from tvm import tirx

        return tirx.decl_buffer((2,), "int32", name="ranked", scope="local")

    @cached_property
    def _counting(self) -> Any:
        """Where a thread that counts the tiles of sequences is."""
        from tvm import tirx

        return tirx.decl_buffer((4,), "int32", name="counting", scope="local")

    @property
    def buffers(self) -> list[Any]:
        """To be allocated around all statements."""
        packed = len(self.sizes) == 2
        return [self._table, self._found, *([self._counting] if packed else [])]

    @property
    def items(self) -> Any:
        """Tiles of all heads."""
        return math.prod(self.sizes)

    @property
    def _tiles(self) -> Any:
        """Tiles of all sequences, of one head."""
        *sequences, _, tiles = self.sizes
        return math.prod([*sequences, tiles])

    @property
    def _fits(self) -> Any:
        """Whether the table holds all tiles."""
        return self._tiles <= ranking.TABLE

    def place(self, item: Item) -> tuple[list[Any], list[Any]]:
        """Statements, and behind them sequence, head and tile of an item."""
        from tvm import tirx

        *sequences, heads, tiles = self.sizes
        if item.section is None:
            number, head = item.number // heads, item.number % heads
        else:
            some = self._heads_of_section
            number, head = item.number // some, item.section * some + item.number % some
        plain = number
        if sequences:
            plain = number % sequences[0] * tiles + number // sequences[0]
        pair: Any = tirx.Var("pair", "int32")
        there = stored(self._found, ranking.ranked(self._pointer, number))
        other = stored(self._found, plain)
        return [
            *item.binds,
            self._if_fits(there, other),
            tirx.Bind(pair, self._found[0]),
        ], self._where(pair, head)

    def _where(self, pair: Any, head: Any) -> list[Any]:
        """Sequence, head and tile, or head and tile, of one of all tiles."""
        *sequences, _, tiles = self.sizes
        return [pair // tiles, head, pair % tiles] if sequences else [head, pair]

    def group(self, tile: Any, known: Any, other: Any) -> Any:
        """Statements by which a tile of all sequences learns of which it is.

        Parameters
        ----------
        known : Callable
            From that sequence to a statement, where the table says it.
        other : Stmt
            Where it does not.
        """
        return self._if_fits(known(ranking.group_of(self._pointer, tile)), other)

    def use(self, value: Any) -> Any:
        """What does something with a value of a thread, before the table is made."""
        from tvm import tirx

        return tirx.Evaluate(ranking.use(self._pointer, value))

    @property
    def known(self) -> Any:
        """A statement behind what makes the table: :attr:`with_keys` needs it."""
        from tvm import tirx

        return tirx.Bind(self._some, self._found[1])

    @property
    def with_keys(self) -> Any:
        """How many items of a section see keys.

        All others come behind these. Where there is no table, there are none behind.
        """
        return self._some * self._heads_of_section

    @cached_property
    def _some(self) -> Any:
        """Tiles with keys."""
        from tvm import tirx

        return tirx.Var("some", "int32")

    @property
    def _heads_of_section(self) -> Any:
        return self.sizes[-2] // self.sections

    def make(self, count: Callable[[Sequence[Any]], tuple[list[Any], Any]]) -> Any:
        """What makes the table.

        Parameters
        ----------
        count : Callable
            From sequence, head and tile to statements, and behind them the key tiles that it sees.
        """
        from tvm import tirx

        def counted(pair: Any) -> Any:
            stmts, number = count(self._where(pair, int32(0)))
            return tirx.SeqStmt([*stmts, self._counted(pair, number, int32(0))])

        return self._made([self._by_threads(counted)])

    def make_of(
        self, sequences: Sequences, count: Callable[[Sequence[Any], Any], tuple[list[Any], Any]]
    ) -> Any:
        """What makes the table of tiles of packed sequences, each by some of the threads.

        They look up where the sequence begins and ends. A search for the sequence of each tile
        would load one number after another.

        Parameters
        ----------
        count : Callable
            From head and tile, and the sequence, to statements, and behind them the key tiles that
            it sees.
        """
        from tvm import tirx

        bits, sequence, tile, end = (
            tirx.Var(name, "int32") for name in ("bits", "sequence", "tile", "end")
        )
        memory = self._counting

        def of_thread(thread: Any) -> Any:
            number: Any = self._number(*thread)
            own = number >> bits
            stmts, tiles = count(self._where(sequences.pair(tile), int32(0)), sequence)
            one = [
                tirx.Bind(tile, memory[0]),
                *stmts,
                self._counted(sequences.pair(tile), tiles, sequence),
                stored(memory, tile + (self._of_block >> bits)),
            ]
            every = [
                *bound_through(memory, part_of(number), sequence, 2),
                stored(memory, sequences.first(sequence) + own),
                *bound_through(memory, sequences.first(sequence + 1), end, 3),
                tirx.While(memory[0] < end, tirx.SeqStmt(one)),
            ]
            some = part_of(number) < sequences.count
            return tirx.IfThenElse(some, tirx.SeqStmt(every), None)

        part: Any = tirx.Var("part", "int32")

        def part_of(number: Any) -> Any:
            return (part << bits) + (number & ((int32(1) << bits) - 1))

        parts = (sequences.count + (int32(1) << bits) - 1) >> bits
        whole = tirx.For(part, int32(0), parts, tirx.ForKind.SERIAL, self._each(of_thread))
        stmts = [
            *bound_through(memory, ranking.spread(sequences.count, self._of_block), bits, 1),
            whole,
        ]
        return self._made(stmts)

    def clear(self) -> list[Any]:
        """Statements before :meth:`make_of`, beside which what this waits for may be loaded.

        Of offsets that decrease, some tiles are of no sequence.
        """
        from tvm import tirx

        none = self._by_threads(lambda pair: self._counted(pair, int32(0), int32(0)))
        nothing = tirx.Evaluate(int32(0))
        return [self._if_fits(none, nothing), synchronized()]

    def _made(self, stmts: Sequence[Any]) -> Any:
        """What makes the table, if it holds all tiles: what counts them, and the ranking."""
        from tvm import tirx

        def some(number: Any) -> Any:
            return stored(self._found, number, 1)

        rank = some(uniform(ranking.rank(self._pointer, self._tiles, self._of_block)))
        return self._if_fits(tirx.SeqStmt([*stmts, rank]), some(self._tiles))

    def _counted(self, pair: Any, number: Any, group: Any) -> Any:
        from tvm import tirx

        return tirx.Evaluate(ranking.count_thing(self._pointer, pair, number, group))

    @property
    def _pointer(self) -> Any:
        return self._table.access_ptr(UNTRACKED)

    def _if_fits(self, there: Any, other: Any) -> Any:
        from tvm import tirx

        if not isinstance(self._fits, tirx.IntImm):
            return tirx.IfThenElse(self._fits, there, other)
        nothing = tirx.Evaluate(tirx.const(0, "int32"))
        return (there if int(self._fits) else other) or nothing

    def _by_threads(self, step: Callable[[Any], Any]) -> Any:
        """A step for every tile, each done by one thread."""
        from tvm import tirx

        part: Any = tirx.Var("part", "int32")
        threads = self._of_block

        def of_thread(thread: Any) -> Any:
            pair = part * threads + self._number(*thread)
            return tirx.IfThenElse(pair < self._tiles, step(pair), None)

        parts = int32(-(-ranking.TABLE // threads))
        return tirx.For(part, int32(0), parts, tirx.ForKind.SERIAL, self._each(of_thread))

    @property
    def _of_block(self) -> int:
        """Threads of a block."""
        return math.prod(self.threads)

    def _number(self, x: Any, y: Any, z: Any) -> Any:
        """Of a thread."""
        return (z * self.threads[1] + y) * self.threads[0] + x

    def _each(self, step: Callable[[Any], Any]) -> Any:
        """A step of every thread of a block, from its (x, y, z)."""
        from tvm import tirx

        names = ("threadIdx.x", "threadIdx.y", "threadIdx.z")
        variables = [tirx.Var(name[-1], "int32") for name in names]
        stmt = step(variables)
        for variable, name, extent in zip(variables, names, self.threads, strict=True):
            stmt = over_threads(variable, extent, name, stmt)
        return stmt
