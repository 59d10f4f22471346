"""The pass that makes tiles of products wider than what they are tiles of, with zeros.

An instruction that multiplies tiles takes so many columns of them at once. An axis that is no
multiple of that, besides rows and columns, is extended: operands are 0 beyond what there is, which
adds nothing to a product, and are not read there; products run over all of it; outputs keep the
axis as it is, so that nothing is stored beyond.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tvm import tirx

from ..errors import DerivationError
from .axes import Roles
from .stages import Axis, Description, Stage


def extend(description: Description, roles: Roles, multiple: int) -> Description:
    """``description`` with axes of products in a multiple, all but outputs.

    Parameters
    ----------
    description : Description
        Whose products read operands of their own.
    multiple : int
        Of what an axis extends to that a product reduces or writes, if it is neither row nor column
        nor outside.

    Raises
    ------
    DerivationError
        If a reduction besides products is over such an axis.
    """
    kept = (*roles.outer, roles.row, roles.column)
    axes = {axis for s in description.stages if s.is_product for axis in s.axes if axis not in kept}
    extended = {axis: _extended(axis, multiple) for axis in axes if axis.extent % multiple}
    return Description(tuple(_over(stage, extended) for stage in description.stages))


def _extended(axis: Axis, multiple: int) -> Axis:
    return replace(axis, extent=-(-axis.extent // multiple) * multiple)


def _over(stage: Stage, extended: Mapping[Axis, Axis]) -> Stage:
    """``stage`` over extended axes."""
    own = [axis for axis in stage.axes if axis in extended]
    if stage.is_output or not own:
        return stage
    axes = tuple(extended.get(axis, axis) for axis in stage.axes)
    if stage.is_product:
        return replace(stage, axes=axes)
    if stage.reduced:
        raise DerivationError(
            f"{stage.name!r} is over {own[0].var.name}, which is extended with zeros for a product "
            "that is over it too: a reduction over it must be a product itself; let others read "
            "what they reduce from a parameter of their own"
        )
    exists: list[Any] = [axis.var < axis.extent for axis in own]
    return replace(stage, axes=axes, within=tirx.all(*exists))
