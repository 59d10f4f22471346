"""Which items a block of a persistent grid takes, one turn after another.

Every other turn goes from the last block to the first, so that whose item was the longer one gets
the shorter one next. Items in sections are taken section by section, and in every other section the
last block is the first one: where the turns of one leave some blocks with an item less, those of
the next leave others.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .steps import bound_through


@dataclass(frozen=True)
class Item:
    """What is taken.

    Parameters
    ----------
    number : PrimExpr
        Of all items, or of those of a section.
    section : PrimExpr or None
        None where there is but one.
    binds : tuple of Stmt
        Come before what these are used in.
    """

    number: Any
    section: Any = None
    binds: tuple[Any, ...] = ()


@dataclass(frozen=True, eq=False)
class Taken:
    """What one block takes.

    Parameters
    ----------
    block, blocks : PrimExpr
        Which of how many.
    items : PrimExpr
        That all take.
    """

    block: Any
    blocks: Any
    items: Any

    @property
    def begin(self) -> list[Any]:
        """Statements before the first turn."""
        return []

    @property
    def buffers(self) -> list[Any]:
        """To be allocated around all statements."""
        return []

    @property
    def turns(self) -> Any:
        """How many there are, behind ``begin``."""
        return turns_of(self.block, self.blocks, self.items)

    def item(self, turn: Any) -> Item:
        """What is taken in a turn."""
        return Item(item_of(turn, self.block, self.blocks))


@dataclass(frozen=True, eq=False)
class TakenInSections(Taken):
    """What one block takes of items in sections, all of whose blocks must be there.

    Parameters
    ----------
    items : PrimExpr
        Of every section.
    sections : int
        Of equally many items.
    """

    sections: int

    @property
    def begin(self) -> list[Any]:
        blocks, *_ = self._bound
        counts = (turns_of(each, blocks, self.items) for each in (self.block, self._mirrored))
        values = zip((self.blocks, *counts), self._bound, strict=True)
        stmts = (bound_through(self._memory, *each, index) for index, each in enumerate(values))
        return [each for bound in stmts for each in bound]

    @property
    def buffers(self) -> list[Any]:
        return [self._memory]

    @property
    def turns(self) -> Any:
        _, one, other = self._bound
        return -(-self.sections // 2) * one + self.sections // 2 * other

    def item(self, turn: Any) -> Item:
        from tvm import tirx

        blocks, one, other = self._bound
        within = tirx.floormod(turn, one + other)
        mirrored = within >= one
        block = tirx.Select(mirrored, self._mirrored, self.block)
        number = item_of(tirx.Select(mirrored, within - one, within), block, blocks)
        section = tirx.floordiv(turn, one + other) * 2 + tirx.Cast("int32", mirrored)
        found = tirx.Var("number", "int32"), tirx.Var("section", "int32")
        binds = (
            *bound_through(self._memory, number, found[0], 3),
            *bound_through(self._memory, section, found[1], 4),
        )
        return Item(*found, binds)

    @property
    def _mirrored(self) -> Any:
        return self._bound[0] - 1 - self.block

    @cached_property
    def _bound(self) -> tuple[Any, Any, Any]:
        """Blocks, and turns of a section and of the next one."""
        from tvm import tirx

        names = ("blocks", "turns", "turns_mirrored")
        blocks, one, other = (tirx.Var(name, "int32") for name in names)
        return blocks, one, other

    @cached_property
    def _memory(self) -> Any:
        from tvm import tirx

        return tirx.decl_buffer((5,), "int32", name="taken", scope="local")


def item_of(turn: Any, block: Any, blocks: Any) -> Any:
    """What a block takes in a turn: of every other one from behind, as items get shorter."""
    from tvm import tirx

    return turn * blocks + tirx.Select(turn % 2 == 0, block, blocks - 1 - block)


def turns_of(block: Any, blocks: Any, items: Any) -> Any:
    """How many turns a block has."""
    from tvm import tirx

    whole = items // blocks
    return whole + tirx.Cast("int32", item_of(whole, block, blocks) < items)
