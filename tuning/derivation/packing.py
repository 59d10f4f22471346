"""The pass that numbers the tiles of all sequences, where these lie one behind another in outputs.

An output that is stored at ``first(sequence) + row``, for the rows that a sequence has, says where
sequences lie. A loop over sequences, and in it one over the tiles of rows that the longest may
have, would visit mostly nothing. So one loop visits all tiles: of sequence ``s`` those from number
``first(s) // rows + s`` on, which leaves it enough however it lies, and as many in all as there are
tiles in all rows, plus one a sequence. Which sequence a number belongs to is searched for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.ir import Var

from ..errors import DerivationError
from .axes import Roles
from .expressions import Expr, depends, equal, substituted
from .intervals import Intervals
from .nest import Search
from .stages import Axis, Description, Stage

# Sequences that are not counted before a call: numbers of them are positive and of 32 bits.
_BITS = 1


@dataclass(frozen=True, eq=False)
class Packing:
    """Where sequences lie in outputs.

    Parameters
    ----------
    sequence : Axis
        That of the loops outside.
    first : Expr
        Its first row among those of all; never less for a later one.
    rows : Expr
        Those of all.
    """

    sequence: Axis
    first: Expr
    rows: Expr

    def tiles(self, size: int) -> Axis:
        """The tiles of all sequences, of ``size`` rows each."""
        rows: Any = self.rows
        return Axis(Var("vpt", "int32"), rows // size + self.sequence.extent)

    def number(self, sequence: Expr, size: int) -> Any:
        """That of the first tile of a sequence."""
        first: Any = substituted(self.first, {self.sequence.var: sequence})
        return first // size + sequence

    def search(self, tile: Expr, size: int) -> Search:
        """For the sequence that a tile of all is of."""
        return Search(
            self.sequence.var,
            tirx.const(0, "int32"),
            tirx.convert(self.sequence.extent),
            lambda sequence: self.number(sequence, size) <= tile,
        )


def find_packing(description: Description, roles: Roles, intervals: Intervals) -> Packing | None:
    """Where sequences lie in the outputs of a description; None if outputs are stored at axes.

    Raises
    ------
    DerivationError
        If outputs are stored elsewhere than at the rows of a sequence, behind those before it.
    """
    outputs = [stage for stage in description.stages if stage.is_output]
    found = [_packing(stage, roles, intervals) for stage in outputs if stage.place is not None]
    if not found:
        return None
    one = found[0]
    if len(found) < len(outputs) or not all(
        each.sequence is one.sequence and equal(each.first, one.first) for each in found
    ):
        raise DerivationError(
            "outputs do not agree on where the rows of a sequence begin: store all of them at the "
            "same sum of an offset and the row"
        )
    return one


def _packing(output: Stage, roles: Roles, intervals: Intervals) -> Packing:
    assert output.place is not None
    row = roles.row.var
    for index, extent in zip(output.place, output.buffer.shape, strict=True):
        if not depends(index, row):
            continue
        sequences = [axis for axis in roles.outer if depends(index, axis.var)]
        if not (isinstance(index, tirx.Add) and index.b.same_as(row) and len(sequences) == 1):
            break
        if output.where is None or not equal(output.where, row < intervals.rows.end):
            raise DerivationError(
                f"{output.name!r} is stored where {output.where}: let that be the rows that may "
                f"see a column, {row < intervals.rows.end}"
            )
        return Packing(sequences[0], index.a, extent)
    raise DerivationError(
        f"{output.name!r} is stored at {list(output.place)}: store it at its axes as they are, or "
        "at a sum of the row and where the rows of one of the other axes begin"
    )
