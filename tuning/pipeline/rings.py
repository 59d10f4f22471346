"""Loads of a pipelined loop as bulk copies: what becomes of a load step, and what it needs.

A load is a step that copies rows of ``[batch, length, heads, columns]``, or of packed sequences
``[length, heads, columns]``, into a slot of a ring
``[slots, panels, rows, width]`` in shared memory, the last row again and again where there are no
more; or into the only one, ``[panels, rows, width]``. Panels may hold more columns, which are 0.
Here one thread has the copy engine do it (:mod:`~prefilltune.tuning.intrinsics.ring`), which copies
whatever rows there are, and zeros for columns that there are not; rows past the last are cleared
where they might be multiplied by zero. A tile may hold the rows of several heads side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import PipelineError
from ..intrinsics import panel_width
from ..intrinsics import ring as calls
from ..intrinsics.fragments import UNTRACKED
from .steps import substituted

#: Shared memory that is set aside for barriers, less than half of which they need: a permuted tile
#: must begin at a multiple of 1024 bytes, also where TVM places it behind them.
BARRIER_BYTES = 1024

_L2_PROMOTION = 2  # CU_TENSOR_MAP_L2_PROMOTION_L2_128B


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
        Of the source's row, head and batch, and the end of its rows; in terms of ``step``.
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
    consumers : int, optional
        Warps that compute, where a thread of none of them loads; all do if absent.
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
    consumers: int | None = None
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

        row, head, batch, _ = self._at(tile)
        pointer = tirx.address_of(self.map)
        call = calls.load_tile(
            self._barriers, self._slot(tile), self._turn(tile), self._tile(tile), pointer,
            (row, head, batch), self._rows, self._columns, alone=self.consumers is not None,
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

    def clear_past_the_end(self, tile: Any) -> Any:
        """Clear the rows of a tile that are none of the source's."""
        from tvm import tirx

        row, _, _, end = self._at(tile)
        return tirx.Evaluate(
            calls.clear_rows(self._tile(tile), end - row, self._rows, self._columns, self.consumers)
        )

    def describe_source(self) -> list[Any]:
        """On the host: make the tensor map."""
        from tvm import tirx

        packed = len(self.source.shape) == 3
        batch, length, heads, columns = (*((1,) if packed else ()), *self.source.shape)
        width = panel_width(self._columns)
        row = columns * heads * 2
        strides = (_int64(columns * 2), _int64(row), _int64(row) * _int64(length))
        arguments = [
            self.map, str(self.source.dtype), 4, self.source.data,
            columns, heads, length, batch, *strides,
            width, self.heads, self._rows // self.heads, 1, 1, 1, 1, 1,
            0, calls.SWIZZLES[width], _L2_PROMOTION, 0,
        ]  # fmt: skip
        return [
            tirx.Bind(self.map, tirx.tvm_stack_alloca("tensormap", 1)),
            tirx.Evaluate(tirx.call_packed("runtime.cuTensorMapEncodeTiled", *arguments)),
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


def rings_of(
    loads: Sequence[Any], consumers: int | None = None, queries: int = 1
) -> tuple[list[Ring], Any]:
    """What load steps of a loop are as rings, and the buffer of their barriers.

    Parameters
    ----------
    consumers : int, optional
        Warps that compute, where a thread of none of them loads; all do if absent.
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
        ring = replace(_ring(load, barriers, slot), consumers=consumers)
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
    return rings, barriers


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
    batch, head = at[0] if len(at) == 4 else tirx.const(0, "int32"), at[-2]
    *steps, one, other = (each.var for each in block.iter_vars)
    first = {each: tirx.const(0, each.ty.dtype) for each in (one, other)}
    row, end = rows
    indices = tuple(substituted(each, first) for each in (row, head, batch, end))
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
        return _rows_of(index.a) or (index.a, last + 1)
    if isinstance(index, tirx.Add):
        found = _rows_of(index.b)
        return found and (index.a + found[0], index.a + found[1])
    return None


def _copied(value: Any) -> Any:
    """What a load copies where there is anything: it may be a choice between that and zeros."""
    from tvm.ir import Call
    from tvm.tirx import FloatImm

    if isinstance(value, Call) and getattr(value.op, "name", "").endswith("if_then_else"):
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
