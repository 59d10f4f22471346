"""What is known of a tile of a persistent grid from its place, and what it binds first.

That says where its rows and keys begin and end. Of packed sequences, a search for the sequence of
the tile comes before; it is made only where there are more tiles than are ranked, as the table of
the ranking names the sequences of the others.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..errors import PipelineError
from ..intrinsics.touching import touch
from .longest_first import Order, Sequences
from .steps import in_other_terms, sequence, stored, substituted, with_equal


@dataclass(frozen=True, eq=False)
class Places:
    """The tiles of a grid.

    Parameters
    ----------
    loops : tuple of tirx.For
        Bound to blocks: over sequences, heads and tiles of queries; or, of packed sequences, over
        heads and the tiles of all.
    realize : s_tir.SBlockRealize
        Of one tile, within them.
    binds : list of Stmt
        What is bound before all else; a search for the sequence of a tile is the first of it.
    order : Order
        That tiles are taken in.
    """

    loops: tuple[Any, ...]
    realize: Any
    binds: list[Any]
    order: Order

    @cached_property
    def search(self) -> list[Any]:
        """The search for the sequence of a tile and what is bound to that, if there is one."""
        return searched(self.binds)

    @property
    def variables(self) -> tuple[list[Any], list[Any]]:
        """Those of a tile's place, and those that are bound."""
        from tvm import tirx

        place = [each.var for each in self.realize.block.iter_vars]
        return place, [each.var for each in self.binds if isinstance(each, tirx.Bind)]

    def at(
        self,
        where: Sequence[Any],
        binds: Sequence[Any] | None = None,
        more: Mapping[Any, Any] | None = None,
    ) -> tuple[list[Any], dict[Any, Any]]:
        """What is bound for a place of the grid, and all that variables are there.

        Parameters
        ----------
        where : sequence of PrimExpr
            Sequence, head and tile; or head and tile of all sequences.
        binds : sequence of Stmt, optional
            What is bound; :meth:`found` if absent.
        more : Mapping, optional
            Variables that are known besides.
        """
        from tvm import tirx

        stmts: list[Any] = []
        known = {**self.values(where), **self.at_loops(where), **(more or {})}
        for each in self.found() if binds is None else binds:
            if not isinstance(each, tirx.Bind):
                stmts.append(in_other_terms(each, known))
                continue
            var = tirx.Var(f"next_{each.var.name}", each.var.ty)
            stmts.append(tirx.Bind(var, substituted(each.value, known)))
            known[each.var] = var
        return stmts, known

    def values(self, where: Sequence[Any]) -> dict[Any, Any]:
        """The sblock's iteration variables for a place of the grid."""
        loops = self.at_loops(where)
        variables = (each.var for each in self.realize.block.iter_vars)
        values = (substituted(each, loops) for each in self.realize.iter_values)
        return dict(zip(variables, values, strict=True))

    def at_loops(self, where: Sequence[Any]) -> dict[Any, Any]:
        """The loops' variables for a place of the grid."""
        return dict(zip((loop.loop_var for loop in self.loops), where, strict=True))

    def there(self, known: dict[Any, Any]) -> Any:
        """That there is such a tile: always, but TVM knows nothing of what is read."""
        from tvm import tirx

        return tirx.all(
            *(
                tirx.all(
                    known.get(each.var, each.var) >= 0,
                    known.get(each.var, each.var) < each.dom.extent,
                )
                for each in self.realize.block.iter_vars
            )
        )

    def found(self, once: Callable[[Any], Any] = lambda value: value) -> list[Any]:
        """What is bound for a tile, with the sequence from the table that is made by then.

        Parameters
        ----------
        once : Callable
            From a value that is the same for all who ask for it, to this.
        """
        if not self.search:
            return self.binds
        *steps, bind = self.search

        def known(sequence: Any) -> Any:
            return stored(bind.value.source, once(sequence))

        found = self.order.group(self.loops[-1].loop_var, known, sequence(steps))
        return [found, *self.binds[len(steps) :]]

    @cached_property
    def constants(self) -> dict[Any, Any]:
        """Of what is bound, what is the same for all tiles, such as where keys begin."""
        from tvm import tirx
        from tvm.ir import TensorLoad
        from tvm.sym.analyzer import Analyzer

        last: dict[Any, Any] = {}
        found: dict[Any, Any] = {}
        for each in self.binds[len(self.search) :]:
            if isinstance(each, tirx.BufferStore):
                last[each.buffer] = each.value  # what is bound next
            elif isinstance(each, tirx.Bind):
                load: Any = each.value
                value = last.get(load.source) if isinstance(load, TensorLoad) else load
                value = Analyzer().simplify(substituted(load if value is None else value, found))
                if isinstance(value, tirx.IntImm):
                    found[each.var] = value
        return found

    def ordered(self, extent: Any) -> Any:
        """What finds the order of the tiles.

        Parameters
        ----------
        extent : PrimExpr
            How many key tiles a tile sees, in terms of what is bound.

        Raises
        ------
        PipelineError
            If the search for a tile's sequence does not say where the tiles of one begin.
        """
        from tvm import tirx

        def counted(bound: tuple[list[Any], dict[Any, Any]]) -> tuple[list[Any], Any]:
            stmts, known = bound
            return stmts, tirx.max(substituted(extent, known), 0)

        search = self.search
        if not search:
            return self.order.make(lambda where: counted(self.at(where, self.binds)))
        _, last, loop, bind = search
        asked, middle = loop.body.condition, loop.body.then_case.value
        if not isinstance(asked, tirx.LE):
            raise PipelineError(
                f"the sequence of a tile is searched by {asked}; a persistent grid needs to ask "
                "that the number of a sequence's first tile is at most that of the tile"
            )
        tile = asked.b
        variables = [each.var for each in self.realize.block.iter_vars]
        place = self.realize.iter_values[variables.index(tile)]

        def first(sequence: Any) -> Any:
            return with_equal(asked.a, middle, sequence)

        def pair(number: Any) -> Any:
            # Tiles come in their order or in the opposite one, which lead back to themselves.
            return substituted(place, {self.loops[-1].loop_var: number})

        def count(where: Sequence[Any], sequence: Any) -> tuple[list[Any], Any]:
            binds = self.binds[len(search) :]
            return counted(self.at(where, binds, {bind.var: sequence}))

        return self.order.make_of(Sequences(last.value, first, pair), count)

    def touched(self) -> tuple[list[Any], list[Any], list[Any]]:
        """Statements that load offsets before they are searched, what waits for that, and memory.

        A search loads one after another, each of which would come from far away.
        """
        import tvm_ffi
        from tvm import tirx
        from tvm.ir import TensorLoad

        found: list[Any] = []

        def visit(load: Any) -> None:
            if load.source.scope() == "global":
                found.append(load.source)

        if not self.search:
            return [], [], []
        tvm_ffi.structural_walk(tirx.SeqStmt(self.binds), (TensorLoad, visit))
        offsets = [*dict.fromkeys(found)]
        memory = tirx.decl_buffer((len(offsets),), "int32", name="touched", scope="local")
        touching = [
            stored(
                memory, touch(tirx.address_of(each[0]), each.shape[0], self.order.threads), index
            )
            for index, each in enumerate(offsets)
        ]
        every = functools.reduce(operator.xor, (memory[index] for index in range(len(offsets))))
        return touching, [*self.order.clear(), self.order.use(every)], [memory]


def is_bound(stmt: Any) -> bool:
    """Whether this binds what a tile knows before all else, or stores or searches for it."""
    from tvm import tirx

    return isinstance(stmt, tirx.Bind | tirx.BufferStore | tirx.While)


def searched(binds: Sequence[Any]) -> list[Any]:
    """Of what is bound, the search for the sequence of a tile and what is bound to that."""
    from tvm import tirx

    ends = [index + 2 for index, each in enumerate(binds) if isinstance(each, tirx.While)]
    return list(binds[: ends[0]]) if ends else []
