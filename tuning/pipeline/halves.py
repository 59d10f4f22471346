"""Warpgroups that see no more than half of the last tile of keys compute with that half alone.

At the diagonal of a causal mask, of 128 rows by 128 keys, the first 64 rows see the first 64 keys.
Their warpgroup multiplies, masks and exponentiates the others for nothing: of the shortest query
tiles that is a quarter of all that there is to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import PipelineError
from ..intrinsics import SHARED, WARP_ROWS, WARPGROUP
from ..intrinsics.gemm import of_half
from ..intrinsics.uniform import uniform
from .annotations import HALVES
from .producer import on_warp
from .steps import changed, over_threads, substituted, whole


def half_of(step: Any, width: int, *, scores: bool) -> Any:
    """A step of a tile of ``width`` columns, for its first half; always with the mask.

    Parameters
    ----------
    scores : bool
        Whether it is the product that gives scores.
    """
    from tvm import tirx

    fragments = width // 8  # of a fragment's eight columns a lane has two
    of_a_lane = (fragments, fragments * 2)

    def change(part: Any) -> Any:
        if isinstance(part, tirx.IfThenElse) and part.else_case is not None:
            return changed(part.else_case, change)
        if isinstance(part, tirx.Evaluate):
            call = of_half(part.value, scores=scores)
            return None if call is None else tirx.Evaluate(call)
        if not isinstance(part, tirx.For) or part.thread_binding is not None:
            return None
        extent: Any = part.extent
        if not (isinstance(extent, tirx.IntImm) and int(extent.value) in of_a_lane):
            return None
        half = tirx.const(int(extent.value) // 2, "int32")
        body = changed(part.body, change)
        return tirx.For(part.loop_var, part.min, half, part.kind, body, None, part.annotations)

    return changed(step, change)


@dataclass(frozen=True, eq=False)
class Halves:
    """Of a loop over tiles of columns: who computes with half of the last one.

    Parameters
    ----------
    loop : tirx.For
        Over tiles of columns.
    steps : tuple of Stmt
        Those of the loop, for half a tile.
    width : int
        Columns of a tile.
    warps : int
        That compute.
    ends : tuple of (PrimExpr, Var)
        Before which columns, from the first one of all tiles on, a row of a tile sees them; and the
        variable of that row.
    memory : tirx.Buffer
        Where a warpgroup keeps how many it sees.
    """

    loop: Any
    steps: tuple[Any, ...]
    width: int
    warps: int
    ends: tuple[tuple[Any, Any], ...]
    memory: Any

    @classmethod
    def of(cls, loop: Any, steps: Sequence[Any], width: int, warps: int) -> Halves:
        """Those of a loop with ``steps`` besides its loads.

        Raises
        ------
        PipelineError
            If no step compares columns with an end.
        """
        from tvm import tirx

        ends = tuple(end for step in steps for end in _ends_of(step, loop))
        if not ends:
            raise PipelineError(
                f"a loop with {HALVES} needs a step that masks columns from an end on, so that "
                "some warpgroups see fewer of them"
            )
        halves = tuple(half_of(step, width, scores=step is steps[0]) for step in steps)
        seen = tirx.decl_buffer((1,), "int32", name="seen", scope="local")
        return cls(loop, halves, width, warps, ends, seen)

    def begin(self) -> Any:
        """Store how many columns, from the first one of all tiles on, a warpgroup sees."""
        from tvm import tirx

        warp: Any = tirx.Var("warp", "int32")
        last = warp // WARPGROUP * (WARPGROUP * WARP_ROWS) + (WARPGROUP * WARP_ROWS - 1)
        seen: Any = None
        for end, row in self.ends:
            there = substituted(end, {row: last})
            seen = there if seen is None else tirx.min(seen, there)
        store = tirx.BufferStore(self.memory, uniform(seen), [tirx.const(0, "int32")])
        return over_threads(warp, self.warps, "threadIdx.z", store)

    @property
    def enough(self) -> Any:
        """Whether half of the last tile is."""
        from tvm import tirx

        before = (self.loop.extent - 1) * self.width
        return self.memory[tirx.const(0, "int32")] - before <= self.width // 2

    def within(self, stmts: Sequence[Any]) -> Any:
        """Statements that read how many columns a warpgroup sees."""
        from tvm import s_tir, tirx

        body = tirx.SeqStmt([self.begin(), *stmts])
        block = s_tir.SBlock([], [], [], "halves", body, alloc_buffers=[self.memory])
        return s_tir.SBlockRealize([], True, block)


def by_turns(stmt: Any, turn: Any, warps: int) -> Any:
    """A tile of rows, whose warpgroups compute other rows of it than in the turn before.

    So that each has as much to do as the others in the long run: none can run further ahead of
    another than rings have slots.
    """
    from tvm import tirx

    groups = warps // WARPGROUP
    if groups == 1:
        return stmt
    warp: Any = tirx.Var("warp", "int32")
    own = (warp + turn % groups * WARPGROUP) % warps
    return over_threads(warp, warps, "threadIdx.z", on_warp(_staged_by(stmt, warp), own))


def _staged_by(stmt: Any, warp: Any) -> Any:
    """A tile of rows, whose outputs a warp keeps where it has kept those of its tile before.

    Elsewhere in shared memory another warp may still be reading.
    """
    from tvm import s_tir, tirx

    def change(part: Any, of_warp: Any = None) -> Any:
        if isinstance(part, tirx.For) and part.thread_binding is not None:
            if part.thread_binding.thread_tag != "threadIdx.z":
                return None
            body = changed(part.body, lambda each: change(each, part.loop_var))
            return tirx.For(
                part.loop_var, part.min, part.extent, part.kind, body, part.thread_binding
            )
        if not isinstance(part, s_tir.SBlockRealize) or of_warp is None:
            return None
        block: Any = part.block
        if not any(each.source.scope() == SHARED for each in block.writes):
            return None
        variables = (each.var for each in block.iter_vars)
        known = dict(zip(variables, part.iter_values, strict=True))

        def store(each: Any) -> Any:
            if not isinstance(each, tirx.BufferStore):
                return None
            places = (substituted(substituted(i, known), {of_warp: warp}) for i in each.indices)
            return tirx.BufferStore(each.buffer, each.value, [*places])

        return s_tir.SBlockRealize(
            part.iter_values, part.predicate,
            s_tir.SBlock(
                block.iter_vars, block.reads, [whole(each.source) for each in block.writes],
                block.name_hint,
                changed(block.body, store), block.init, block.alloc_buffers, block.match_buffers,
                block.annotations,
            ),
        )  # fmt: skip

    return changed(stmt, change)


def _ends_of(step: Any, loop: Any) -> list[tuple[Any, Any]]:
    """Before which columns of the loop's first tile a row sees them, and the row's variable."""
    from tvm import s_tir, tirx
    from tvm.tirx.analysis import undefined_vars

    found: list[tuple[Any, Any]] = []
    threads: dict[str, Any] = {}

    def visit(part: Any) -> Any:
        if isinstance(part, tirx.For) and part.thread_binding is not None:
            threads[str(part.thread_binding.thread_tag)] = part.loop_var
        if not isinstance(part, s_tir.SBlockRealize):
            return None
        values = dict(
            zip((each.var for each in part.block.iter_vars), part.iter_values, strict=True)
        )
        rows, lanes, tiles = (
            [var for var, value in values.items() if each in undefined_vars(value)]
            for each in (threads.get("threadIdx.z"), threads.get("threadIdx.x"), loop.loop_var)
        )
        if len(rows) != 1:
            return None
        known = {**dict.fromkeys(lanes, tirx.const(0, "int32")), **dict.fromkeys(tiles, loop.min)}
        ends = _compared(part.block.body)
        found.extend((substituted(end, known), rows[0]) for end in ends)
        return None

    changed(step, visit)
    return found


def _compared(body: Any) -> list[Any]:
    """What numbers of columns are less than, in a mask by limits."""
    import tvm_ffi
    from tvm import tirx
    from tvm.ir import TensorLoad

    stored: dict[Any, dict[int, Any]] = {}
    limits: list[Any] = []

    def visit(part: Any) -> None:
        if isinstance(part, tirx.BufferStore):
            index = part.indices[0] if len(part.indices) == 1 else None
            if isinstance(index, tirx.IntImm):
                stored.setdefault(part.buffer, {})[int(index.value)] = part.value
            tvm_ffi.structural_walk(part.value, (tirx.LT, less))

    def less(comparison: Any) -> None:
        limit: Any = comparison.b
        if isinstance(limit, TensorLoad) and limit.source in stored:
            index: Any = limit.indices[0]
            limits.append(stored[limit.source][int(index.value)])

    changed(body, visit)
    return limits
