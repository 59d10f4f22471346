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
from .steps import over_threads
from .taking import Item

#: Shared memory of the table.
RANKING_BYTES = 4 * ranking.TABLE_WORDS


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

    @property
    def buffers(self) -> list[Any]:
        """To be allocated around all statements."""
        return [self._table, self._found]

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

        zero: Any = tirx.const(0, "int32")
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
        there = tirx.BufferStore(self._found, ranking.ranked(self._pointer, number), [zero])
        other = tirx.BufferStore(self._found, plain, [zero])
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

    def make(self, count: Callable[[Sequence[Any]], tuple[list[Any], Any, Any]]) -> Any:
        """What makes the table.

        Parameters
        ----------
        count : Callable
            From sequence, head and tile, or head and tile, to statements, and behind them the key
            tiles that it sees; and the sequence, where a tile is to learn it, or 0.
        """
        from tvm import tirx

        def counted(pair: Any) -> Any:
            stmts, number, group = count(self._where(pair, tirx.const(0, "int32")))
            call = ranking.count_thing(self._pointer, pair, number, group)
            return tirx.SeqStmt([*stmts, tirx.Evaluate(call)])

        def some(number: Any) -> Any:
            return tirx.BufferStore(self._found, number, [tirx.const(1, "int32")])

        rank = some(uniform(ranking.rank(self._pointer, self._tiles)))
        return self._if_fits(tirx.SeqStmt([self._by_threads(counted), rank]), some(self._tiles))

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

        x, y, z = self.threads
        names = ("threadIdx.x", "threadIdx.y", "threadIdx.z")
        variables: list[Any] = [tirx.Var(name[-1], "int32") for name in names]
        part: Any = tirx.Var("part", "int32")
        pair = part * (x * y * z) + (variables[2] * y + variables[1]) * x + variables[0]
        zero = tirx.const(0, "int32")
        parts = tirx.const(-(-ranking.TABLE // (x * y * z)), "int32")
        stmt: Any = tirx.IfThenElse(pair < self._tiles, step(pair), None)
        stmt = tirx.For(part, zero, parts, tirx.ForKind.SERIAL, stmt)
        for variable, name, extent in zip(variables, names, self.threads, strict=True):
            stmt = over_threads(variable, extent, name, stmt)
        return stmt
