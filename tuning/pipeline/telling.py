"""What the thread that loads has found out of a tile, told to the warps that compute with it.

Where a tile lies is found by loads each of which hangs on the one before: of its rank, its sequence
and the lengths of that. Each warp that computes would do so between two tiles, while the thread
that loads does it ahead of them. So that thread writes what it found to shared memory, before the
barrier at which the others wait for the tile's query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..errors import PipelineError
from ..intrinsics import telling as calls
from ..intrinsics.fragments import UNTRACKED
from .annotations import PRODUCER
from .rings import BARRIER_BYTES
from .steps import bound_through

# Numbers are kept in what barriers do not need of their memory, behind so many bytes.
_FIRST = 512
_ROOM = (BARRIER_BYTES - _FIRST) // 4


@dataclass(frozen=True, eq=False)
class Told:
    """Numbers of a tile of queries.

    Parameters
    ----------
    variables : tuple of Var
        Which they are; int32.
    slots : int
        Tiles that they are kept of: as many as queries.
    barriers : tirx.Buffer
        Of rings, beside which they are kept.
    """

    variables: tuple[Any, ...]
    slots: int
    barriers: Any

    def __post_init__(self) -> None:
        room = _ROOM // self.slots
        if len(self.variables) > room or any(str(v.ty.dtype) != "int32" for v in self.variables):
            told = ", ".join(f"{each.name} ({each.ty.dtype})" for each in self.variables)
            raise PipelineError(
                f"a tile of queries is told to warps by {told}; that must be at most {room} "
                f"numbers, each int32; schedule such a tile without {PRODUCER}"
            )

    @cached_property
    def _heard(self) -> Any:
        from tvm import tirx

        return tirx.decl_buffer((len(self.variables),), "int32", name="heard", scope="local")

    @property
    def buffers(self) -> list[Any]:
        """To be allocated around all statements."""
        return [self._heard]

    def say(self, values: Mapping[Any, Any], turn: Any) -> list[Any]:
        """Statements of one thread, where the slot of a turn is free: what the variables are."""
        from tvm import tirx

        return [
            tirx.Evaluate(calls.tell(self._pointer, place, values[var]))
            for var, place in self._places(turn)
        ]

    def hear(self, turn: Any) -> list[Any]:
        """Statements of all threads of a warp, behind the slot's barrier, that bind them."""
        return [
            stmt
            for index, (var, place) in enumerate(self._places(turn))
            for stmt in bound_through(self._heard, calls.told(self._pointer, place), var, index)
        ]

    def _places(self, turn: Any) -> list[tuple[Any, Any]]:
        """Variables, and where each is kept for a turn."""
        first = turn % self.slots * len(self.variables)
        return [(var, first + index) for index, var in enumerate(self.variables)]

    @property
    def _pointer(self) -> Any:
        return self.barriers.access_ptr(UNTRACKED, offset=_FIRST // 8)


def variables_in(variables: Sequence[Any], stmts: Sequence[Any]) -> tuple[Any, ...]:
    """Those of some variables that statements use."""
    import tvm_ffi
    from tvm import tirx
    from tvm.ir import Var

    used = set()
    tvm_ffi.structural_walk(tirx.SeqStmt(list(stmts)), (Var, used.add))
    return tuple(each for each in variables if each in used)
