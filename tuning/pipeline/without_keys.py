"""What is written for a tile of queries that sees no keys: constants, whoever writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import PipelineError
from .rings import sblock_of
from .steps import changed, is_choice, stores_of


def without_keys(stmts: Sequence[Any]) -> list[Any]:
    """Those steps of a tile that write to global memory, where no row of it attends to a key.

    Raises
    ------
    PipelineError
        If a step does not choose between what it computes and a constant.
    """
    from tvm.tirx import FloatImm

    known = constants(stmts)
    return [
        _written(stmt, FloatImm(store.buffer.dtype, known[store.buffer]))
        for stmt in stmts
        if (store := _store(stmt)) is not None and store.buffer in known
    ]


def constants(stmts: Sequence[Any]) -> dict[Any, float]:
    """What steps of a tile store to global memory where no row of it attends to a key, by buffer.

    Raises
    ------
    PipelineError
        If a step does not choose between what it computes and a constant.
    """
    stores = [found for each in stmts if (found := _store(each)) is not None]
    staged = {each.buffer: each for each in stores if each.buffer.scope() != "global"}
    return {
        each.buffer: _constant(each, staged) for each in stores if each.buffer.scope() == "global"
    }


def _store(stmt: Any) -> Any:
    """What the one sblock of a step stores, if the step is that."""
    try:
        found = stores_of(sblock_of(stmt).body)
    except PipelineError:
        return None
    return found[0] if len(found) == 1 else None


def _constant(store: Any, staged: dict[Any, Any]) -> float:
    """What is stored where a row attends to nothing."""
    from tvm import tirx
    from tvm.ir import TensorLoad
    from tvm.tirx import FloatImm

    value = store.value
    if isinstance(value, TensorLoad) and value.source in staged:
        value = staged[value.source].value
    while isinstance(value, tirx.Cast):
        value = value.value
    if isinstance(value, tirx.Select):
        value = value.false_value
    elif is_choice(value):
        value = value.args[2]
    if not isinstance(value, FloatImm):
        raise PipelineError(
            f"{store.buffer.name} has no constant for rows that attend to nothing: its step must "
            "choose between that and what it computes"
        )
    return float(value.value)


def _written(stmt: Any, constant: Any) -> Any:
    """A step that stores a constant, and reads nothing."""
    from tvm import s_tir, tirx

    def change(part: Any) -> Any:
        if isinstance(part, tirx.BufferStore):
            return tirx.BufferStore(part.buffer, constant, part.indices)
        if not isinstance(part, s_tir.SBlock):
            return None
        return s_tir.SBlock(
            part.iter_vars, [], part.writes, part.name_hint, changed(part.body, change)
        )

    return changed(stmt, change)
