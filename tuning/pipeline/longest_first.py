"""The order of the tiles of a persistent grid: those that see most keys first.

Every block makes the same table of it, from the lengths, before it begins. Where there are more
tiles than the table holds, they come in the order of the description, one tile of every sequence
after another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..intrinsics import ranking
from ..intrinsics.fragments import UNTRACKED

#: Shared memory of the table.
RANKING_BYTES = 4 * ranking.TABLE_WORDS


@dataclass(frozen=True, eq=False)
class Order:
    """Tiles in their order.

    Parameters
    ----------
    batch, heads, tiles : PrimExpr
        Sequences, heads, and tiles of one sequence.
    threads : tuple of int
        Of a block, (x, y, z).
    """

    batch: Any
    heads: Any
    tiles: Any
    threads: tuple[int, int, int]

    @cached_property
    def _table(self) -> Any:
        from tvm import tirx

        return tirx.decl_buffer((ranking.TABLE_WORDS,), "int32", name="ranking", scope="shared.dyn")

    @cached_property
    def _found(self) -> Any:
        """What was read of the table: what is bound to that, and not to a call, is read once."""
        from tvm import tirx

        return tirx.decl_buffer((1,), "int32", name="ranked", scope="local")

    @property
    def buffers(self) -> list[Any]:
        """To be allocated around all statements."""
        return [self._table, self._found]

    @property
    def _fits(self) -> Any:
        """Whether the table holds all tiles."""
        return self.batch * self.tiles <= ranking.TABLE

    def place(self, item: Any) -> tuple[list[Any], list[Any]]:
        """Statements, and behind them sequence, head and tile of an item."""
        from tvm import tirx

        zero: Any = tirx.const(0, "int32")
        number, head = item // self.heads, item % self.heads
        plain = number % self.batch * self.tiles + number // self.batch
        pair: Any = tirx.Var("pair", "int32")
        there = tirx.BufferStore(self._found, ranking.ranked(self._pointer, number), [zero])
        other = tirx.BufferStore(self._found, plain, [zero])
        return [
            self._if_fits(there, other),
            tirx.Bind(pair, self._found[0]),
        ], [pair // self.tiles, head, pair % self.tiles]

    def make(self, count: Callable[[Any, Any], tuple[list[Any], Any]]) -> Any:
        """What makes the table.

        Parameters
        ----------
        count : Callable
            From sequence and tile to statements, and behind them the key tiles that it sees.
        """
        from tvm import tirx

        def counted(pair: Any) -> Any:
            stmts, number = count(pair // self.tiles, pair % self.tiles)
            call = ranking.count_thing(self._pointer, pair, number)
            return tirx.SeqStmt([*stmts, tirx.Evaluate(call)])

        rank = tirx.Evaluate(ranking.rank(self._pointer, self.batch * self.tiles))
        return self._if_fits(tirx.SeqStmt([self._by_threads(counted), rank]), None)

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
        stmt: Any = tirx.IfThenElse(pair < self.batch * self.tiles, step(pair), None)
        stmt = tirx.For(part, zero, parts, tirx.ForKind.SERIAL, stmt)
        for variable, name, extent in zip(variables, names, self.threads, strict=True):
            unbounded: Any = None
            axis = tirx.IterVar(unbounded, tirx.Var("", "int32"), tirx.IterVar.ThreadIndex, name)
            stmt = tirx.For(
                variable, zero, tirx.const(extent, "int32"), tirx.ForKind.THREAD_BINDING, stmt, axis
            )
        return stmt
