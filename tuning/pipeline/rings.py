"""Loads of a pipelined loop as bulk copies: what becomes of a load step, and what it needs.

A load is a step that copies rows of ``[batch, length, heads, columns]``, or of packed sequences
``[length, heads, columns]``, into a slot of a ring
``[slots, panels, rows, width]`` in shared memory, the last row again and again where there are no
more; or into the only one, ``[panels, rows, width]``. Panels may hold more columns, which are 0.
Here one thread has the copy engine do it (:mod:`~prefilltune.tuning.intrinsics.ring`), which copies
what rows there are, and zeros for rows and columns that there are not: rows past the last may be
padding with a NaN, which a weight of zero would let into the result. A tile may hold the rows of
several heads side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import PipelineError
from ..intrinsics import panel_width
from ..intrinsics import ring as calls
from ..intrinsics.fragments import UNTRACKED
from .steps import is_choice, substituted
from .tensor_maps import make_map

#: Shared memory that is set aside for barriers, less than half of which they need: a permuted tile
#: must begin at a multiple of 1024 bytes, also where TVM places it behind them.
BARRIER_BYTES = 1024


@dataclass(frozen=True, eq=False)
class Ring:
    """One load of a loop.

    Parameters
    ----------
    buffer : tirx.Buffer
        The ring.
    source : tirx.Buffer
        What is loaded from.
    indices : tuple
        Before which of the source's rows there are some to copy, and of the first one, its row,
        head and, unless sequences are packed, batch; in terms of ``step``.
    step : tirx.Var, optional
        Number of the tile, where there is more than one.
    barriers : tirx.Buffer
        Of all rings of the loop.
    first_slot : int
        Among them, of this ring.
    map : tirx.Var
        The source's tensor map.
    before : PrimExpr, optional
        How many tiles it has held before the first of the loop; none if absent.
    alone : bool
        Whether one thread comes to load, and not all of a block.
    heads : int
        Neighbouring ones that share a tile: its rows are the first ones of all, then the second.
    """

    buffer: Any
    source: Any
    indices: tuple[Any, ...]
    step: Any
    barriers: Any
    first_slot: int
    map: Any
    before: Any = None
    alone: bool = False
    heads: int = 1

    def elsewhere(self, values: dict[Any, Any], before: Any) -> Ring:
        """The ring in another run of the loop, which has other values of variables."""
        indices = tuple(substituted(each, values) for each in self.indices)
        return replace(self, indices=indices, before=before)

    @property
    def slots(self) -> int:
        """Tiles that it holds."""
        return _slots(self.buffer)

    def prefetch_map(self) -> Any:
        """Have the copy engine read the tensor map before it is used."""
        from tvm import tirx

        return tirx.Evaluate(calls.prefetch_map(tirx.address_of(self.map)))

    def load(self, tile: Any) -> Any:
        """Start to load a tile."""
        from tvm import tirx

        end, row, *others = self._at(tile)
        pointer = tirx.address_of(self.map)
        call = calls.load_tile(
            self._barriers, self._slot(tile), self._turn(tile), self._tile(tile), pointer,
            end - row, (row, *others), self._rows, self._columns, heads=self.heads,
            alone=self.alone,
        )  # fmt: skip
        return tirx.Evaluate(call)

    def arrived(self, tile: Any) -> Any:
        """Wait for a tile."""
        from tvm import tirx

        return tirx.Evaluate(calls.arrived(self._barriers, self._slot(tile), self._turn(tile)))

    def free(self, tile: Any) -> Any:
        """Wait until the slot that a tile goes to is free."""
        from tvm import tirx

        return tirx.Evaluate(calls.free(self._barriers, self._slot(tile), self._turn(tile)))

    def filled(self, tile: Any) -> Any:
        """Let others go on as if the tile had arrived, which is none."""
        from tvm import tirx

        return tirx.Evaluate(calls.filled(self._barriers, self._slot(tile)))

    def done(self, tile: Any) -> Any:
        """Give a tile's slot free."""
        from tvm import tirx

        return tirx.Evaluate(calls.done(self._barriers, self._slot(tile)))

    def describe_source(self) -> list[Any]:
        """On the host: make the tensor map, of a dense source."""
        from tvm import tirx

        *batch, _, heads, columns = self.source.shape
        row = _int64(columns * heads * 2)
        strides = [_int64(columns * 2), row, *(row * _int64(self.source.shape[1]) for _ in batch)]
        width, rows = panel_width(self._columns), self._rows // self.heads
        tile = (width, self.heads, rows)
        return [
            tirx.Bind(self.map, tirx.tvm_stack_alloca("tensormap", 1)),
            make_map(self.map, self.source, strides, tile, calls.SWIZZLES[width]),
        ]

    @property
    def _rows(self) -> int:
        return int(self.buffer.shape[-2])

    @property
    def _columns(self) -> int:
        return int(self.buffer.shape[-3]) * int(self.buffer.shape[-1])

    @property
    def _barriers(self) -> Any:
        return self.barriers.access_ptr(UNTRACKED)

    def _ever(self, tile: Any) -> Any:
        """Number of a tile among all that the ring ever holds."""
        return tile if self.before is None else self.before + tile

    def _turn(self, tile: Any) -> Any:
        return self._ever(tile) // self.slots

    def _slot(self, tile: Any) -> Any:
        return self._ever(tile) % self.slots + self.first_slot

    def _tile(self, tile: Any) -> Any:
        offset = self._ever(tile) % self.slots * (self._rows * self._columns)
        return self.buffer.access_ptr(UNTRACKED, offset=offset)

    def _at(self, tile: Any) -> list[Any]:
        values = {} if self.step is None else {self.step: tile}
        return [substituted(each, values) for each in self.indices]


def rings_of(loads: Sequence[Any], *, alone: bool = False, queries: int = 1) -> list[Ring]:
    """What load steps of a loop are as rings.

    Parameters
    ----------
    alone : bool
        Whether one thread comes to load, and not all of a block.
    queries : int
        Slots of the first one's ring, whatever the step has.

    Raises
    ------
    PipelineError
        If a step is no such load, or there are more slots than barriers.
    """
    from tvm import tirx

    size = BARRIER_BYTES // 8
    barriers = tirx.decl_buffer((size,), "uint64", name="barriers", scope="shared.dyn")
    rings, slot = [], 0
    for load in loads:
        ring = replace(_ring(load, barriers, slot), alone=alone)
        if not rings and queries > 1:
            tile = ring.buffer
            shape = (queries, *tile.shape)
            several = tirx.decl_buffer(shape, tile.dtype, tile.name, scope=tile.scope())
            ring = replace(ring, buffer=several)
        rings.append(ring)
        slot += ring.slots
    if slot * calls.SLOT_BYTES > BARRIER_BYTES // 2:
        raise PipelineError(
            f"rings of {slot} slots in all need more memory of barriers than there is; use at most "
            f"{BARRIER_BYTES // 2 // calls.SLOT_BYTES} slots"
        )
    return rings


def begin_rings(rings: Sequence[Ring], warps: int) -> Any:
    """Make the barriers of all rings of a loop, which ``warps`` warps read."""
    from tvm import tirx

    slots = sum(ring.slots for ring in rings)
    pointer = rings[0].barriers.access_ptr(UNTRACKED)
    begin = tirx.Evaluate(calls.begin_rings(pointer, slots, warps))
    return tirx.SeqStmt([*(ring.prefetch_map() for ring in rings), begin])


def _ring(load: Any, barriers: Any, first_slot: int) -> Ring:
    from tvm import tirx
    from tvm.ir import PointerType, TensorLoad

    block = sblock_of(load)
    store = block.body
    value = _copied(store.value) if isinstance(store, tirx.BufferStore) else None
    at: Any = list(value.indices) if isinstance(value, TensorLoad) else ()
    rows = _rows_of(at[-3]) if len(at) in (3, 4) else None
    if value is None or rows is None:
        raise PipelineError(
            f"the step {block.name_hint} is no load into a ring: it must copy the rows of a tile, "
            "the last one again where there are no more"
        )
    source: Any = value.source
    *batch, _, head, _ = at
    *steps, one, other = (each.var for each in block.iter_vars)
    first = {each: tirx.const(0, each.ty.dtype) for each in (one, other)}
    row, end = rows
    indices = tuple(substituted(each, first) for each in (end, row, head, *batch))
    name = f"{source.name}_map"
    return Ring(
        store.buffer, source, indices, steps[0] if steps else None, barriers, first_slot,
        tirx.Var(name, PointerType(tirx.TensorMapType())), heads=heads_of(head),
    )  # fmt: skip


def heads_of(head: Any) -> int:
    """How many heads share a tile of rows: a row's is one of so many, numbered by the rest."""
    import tvm_ffi
    from tvm import tirx

    found: list[int] = []

    def visit(rest: Any) -> None:
        found.append(int(rest.b))

    tvm_ffi.structural_walk(head, (tirx.FloorMod, visit))
    return found[0] if found else 1


def _rows_of(index: Any) -> tuple[Any, Any] | None:
    """The row of an index that is the last one where there are no more, and the end of the rows.

    Of packed sequences it is one of a sequence, behind those before it, and then of all.
    """
    from tvm import tirx

    if isinstance(index, tirx.Min):
        last: Any = index.b
        end = last + 1
        found = _rows_of(index.a)
        return (found[0], tirx.min(found[1], end)) if found else (index.a, end)
    if isinstance(index, tirx.Add):
        found = _rows_of(index.b)
        return found and (index.a + found[0], index.a + found[1])
    return None


def _copied(value: Any) -> Any:
    """What a load copies where there is anything: it may be a choice between that and zeros."""
    from tvm.tirx import FloatImm

    if is_choice(value):
        _, element, zero = value.args
        return element if isinstance(zero, FloatImm) and zero.value == 0 else value
    return value


def _slots(buffer: Any) -> int:
    return int(buffer.shape[0]) if len(buffer.shape) == 4 else 1


def sblock_of(stmt: Any) -> Any:
    """The one sblock within a nest of loops."""
    from tvm import s_tir, tirx

    while isinstance(stmt, tirx.For):
        stmt = stmt.body
    if not isinstance(stmt, s_tir.SBlockRealize):
        raise PipelineError(
            f"a load into a ring is the statement {type(stmt).__name__} within its loops; it must "
            "be one sblock"
        )
    return stmt.block


def _int64(value: Any) -> Any:
    from tvm import tirx

    return tirx.Cast("int64", value)
