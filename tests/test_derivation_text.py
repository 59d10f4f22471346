"""The text of what is derived before it is tiled: run as Python, it computes attention."""

from __future__ import annotations

import ast
import itertools
import math
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from plain_descriptions import smoothed

from prefilltune.tuning.derivation import online_text
from prefilltune.tuning.derivation.derive import derive_text
from prefilltune.tuning.derivation.naming import Names
from prefilltune.workloads import (
    TOLERANCE,
    PrefillShape,
    PrefillSpec,
    make_inputs,
    max_error,
    reference_attention,
)

#: Columns of a tile; any number will do.
WIDTH = 3


class _Sblocks(ast.NodeTransformer):
    """An sblock is what it holds; its init comes where what it reduces is at its first element."""

    def __init__(self) -> None:
        self.loops: list[ast.For] = []

    def visit_For(self, loop: ast.For) -> ast.For:
        self.loops.append(loop)
        self.generic_visit(loop)
        self.loops.pop()
        return loop

    def visit_With(self, block: ast.With) -> Any:
        init, *stores = block.body
        if not isinstance(init, ast.With):
            return block.body
        (first,) = init.body
        assert isinstance(first, ast.Assign)
        loop = self.loops[-1]
        at = ast.unparse(first.targets[0])
        own = [each.id for each in ast.walk(loop.target) if isinstance(each, ast.Name)]
        reduced = [each for each in own if each not in at and each != "columns"]
        if not reduced:  # from tile to tile
            reduced = ["vjt"]
        begins = " and ".join(
            f"{each} == {'columns[0]' if each == 'vj' else 0}" for each in reduced
        )
        return [ast.If(ast.parse(begins, mode="eval").body, [first], []), *stores]


def _tiles(begin: int, end: int) -> Any:
    return enumerate(range(at, min(at + WIDTH, end)) for at in range(begin, end, WIDTH))


def _grid(*extents: Any) -> Any:
    return itertools.product(*(range(each) if isinstance(each, int) else each for each in extents))


T = SimpleNamespace(
    Buffer=lambda *_: None,
    grid=_grid,
    Cast=lambda dtype, value: np.dtype(dtype).type(value),
    Select=lambda condition, one, other: one if condition else other,
    if_then_else=lambda condition, one, other: one if condition else other,
    max=max, min=min, exp2=np.exp2, log2=np.log2, tanh=np.tanh, float32=np.float32,
)  # fmt: skip


@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"mask_mode": "causal_padded_left"},
        {"padding": "left", "window": (2, 1), "softcap": 1.5, "bias": "relative"},
    ],
)
def test_it_computes_attention(chosen: dict[str, Any]) -> None:
    spec, shape = PrefillSpec(2, 1, 4, "float32", **chosen), PrefillShape(3, 5, 8)
    inputs = make_inputs(spec, shape, np.array([0, 3, 8], "int32"), 0, poison_padding=True)
    given = [inputs.query, inputs.key, inputs.value, inputs.valid_lens]
    given += [] if inputs.bias is None else [inputs.bias]
    output = np.full(inputs.query.shape, math.nan, "float32")
    lse = np.full(inputs.query.shape[:3], math.nan, "float32")
    tree = ast.fix_missing_locations(_Sblocks().visit(ast.parse(online_text(spec, shape))))
    buffers = {each.value.id for each in ast.walk(tree)
               if isinstance(each, ast.Subscript) and isinstance(each.value, ast.Name)}  # fmt: skip
    scope: dict[str, Any] = {name: defaultdict(lambda: math.nan) for name in buffers}
    scope |= {"T": T, "tiles": _tiles}
    exec(compile(tree, "online", "exec"), scope)
    with np.errstate(all="ignore"):
        scope["main"](*given, output, lse)
    for found, expected in zip((output, lse), reference_attention(spec, *given), strict=True):
        assert max_error(found, expected) <= TOLERANCE["float32"]


def test_it_knows_nothing_of_attention() -> None:
    text = derive_text(smoothed(), None, Names())
    names = {each.value for each in ast.walk(ast.parse(text)) if isinstance(each, ast.Constant)}
    assert {"shown", "tile_water", "water_before", "high_water", "whole_mass", "result"} <= names
