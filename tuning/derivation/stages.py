"""A description as passes see it: stages one after another, each over its own axes.

What is asked of a description: one PrimFunc whose parameters are buffers, and whose body is a
sequence of loop nests around one sblock each. An sblock stores one element, at axes of its own;
a reduction combines what is there with a summand that does not read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tvm import tirx
from tvm.ir import TensorLoad, Var
from tvm.tirx import IterVar

from ..errors import DerivationError
from .expressions import Buffer, Expr, Load, dtype_of, element, new_buffer, reads

#: What a reduction may combine with.
_COMBINATIONS = (tirx.Add, tirx.Max, tirx.Min)

_ASKED = (
    "a description is a sequence of loop nests around one sblock each, which stores one element at "
    "any point of the loops"
)


@dataclass(frozen=True, eq=False)
class Axis:
    """An iteration variable, from 0 to ``extent``."""

    var: Var
    extent: Expr

    def fresh(self, prefix: str) -> Var:
        """Another variable for it: ``prefix`` is ``""`` for a loop, ``v`` or ``w`` for sblocks."""
        return Var(prefix + self.var.name.lstrip("vw"), "int32")


@dataclass(frozen=True, eq=False)
class Stage:
    """One sblock.

    Parameters
    ----------
    name : str
        Of the sblock.
    axes : tuple of Axis
        In the order of its loops.
    buffer : Var
        What it writes.
    indices : tuple of Var
        Where, each the variable of an axis. The other axes are reduced.
    value : Expr
        What is stored, or of a reduction its summand.
    init : Expr, optional
        What a reduction starts with.
    combine : type, optional
        What a reduction combines with, ``tirx.Add`` say.
    is_output : bool
        Whether it writes a parameter.
    tile : Axis, optional
        The tile of columns that it is in, of a stage that is computed once a tile: a reduction
        over tiles, if there is an ``init``. Its value is all that it stores.
    within : Expr, optional
        Where there is what an elementwise stage reads: it is 0 elsewhere, and reads nothing.
    place : tuple of Expr, optional
        Where an output is stored, if not at ``indices`` as they are.
    where : Expr, optional
        Whether an output has the element, if it leaves any out.
    """

    name: str
    axes: tuple[Axis, ...]
    buffer: Buffer
    indices: tuple[Var, ...]
    value: Expr
    init: Expr | None = None
    combine: Any = None
    is_output: bool = False
    tile: Axis | None = None
    within: Expr | None = None
    place: tuple[Expr, ...] | None = None
    where: Expr | None = None

    @property
    def exprs(self) -> tuple[Expr, ...]:
        """All that it computes, where it stores that included."""
        others = (*(self.place or ()), self.where)
        return (self.value, *(each for each in others if each is not None))

    @property
    def reduced(self) -> tuple[Axis, ...]:
        """The axes that it reduces."""
        return tuple(axis for axis in self.axes if axis.var not in self.indices)

    @property
    def is_product(self) -> bool:
        """Whether it is a reduction of products."""
        return bool(self.reduced) and isinstance(self.value, tirx.Mul)


@dataclass(frozen=True, eq=False)
class Description:
    """The stages of a PrimFunc."""

    stages: tuple[Stage, ...]

    def stage_of(self, buffer: Buffer) -> Stage | None:
        """What writes ``buffer``; None for a parameter that none does."""
        return next((stage for stage in self.stages if stage.buffer.same_as(buffer)), None)

    def readers(self, buffer: Buffer) -> list[Stage]:
        """The stages that read ``buffer``."""
        return [stage for stage in self.stages if reads(stage.value, buffer)]


def load(stage: Stage) -> Load:
    """What ``stage`` holds at its own axes."""
    return element(stage.buffer, stage.indices)


def new_stage(name: str, axes: Sequence[Axis], value: Expr, **rest: Any) -> Stage:
    """An elementwise stage over ``axes``, in a buffer of its own."""
    shape = [axis.extent for axis in axes]
    buffer = new_buffer(shape, dtype_of(value), name)
    return Stage(name, tuple(axes), buffer, tuple(axis.var for axis in axes), value, **rest)


def read_description(function: Any) -> Description:
    """The stages of ``function``.

    Raises
    ------
    DerivationError
        If it has another form than passes ask for.
    """
    root = function.body.block
    nests = root.body.seq if isinstance(root.body, tirx.SeqStmt) else [root.body]
    return Description(tuple(_stage(nest, function.params) for nest in nests))


def _stage(nest: Any, parameters: Sequence[Buffer]) -> Stage:
    loops = []
    while isinstance(nest, tirx.For):
        loops.append(nest.loop_var)
        nest = nest.body
    if not hasattr(nest, "block"):
        raise DerivationError(
            f"{type(nest).__name__} stands where an sblock is asked for: {_ASKED}"
        )
    block = nest.block
    name, store, where = block.name_hint, block.body, None
    if isinstance(store, tirx.IfThenElse) and store.else_case is None:
        where, store = store.condition, store.then_case
    if not isinstance(store, tirx.BufferStore):
        raise DerivationError(f"sblock {name!r} holds a {type(store).__name__}: {_ASKED}")
    bound = list(nest.iter_values)
    if len(bound) != len(loops) or not all(a.same_as(b) for a, b in zip(bound, loops, strict=True)):
        raise DerivationError(f"sblock {name!r} runs over {bound} in loops over {loops}: {_ASKED}")
    if not (isinstance(nest.predicate, tirx.IntImm) and nest.predicate.value):
        raise DerivationError(f"sblock {name!r} runs only where {nest.predicate}: {_ASKED}")
    axes = tuple(_axis(name, each) for each in block.iter_vars)
    own = {axis.var for axis in axes}
    indices: Any = tuple(store.indices)
    output = any(store.buffer.same_as(parameter) for parameter in parameters)
    if where is not None and not output:
        raise DerivationError(
            f"sblock {name!r} stores only where {where}: outputs alone may leave elements out"
        )
    stage = Stage(name, axes, store.buffer, indices, store.value, is_output=output, where=where)
    if not all(isinstance(index, Var) and index in own for index in indices):
        if where is None:
            raise DerivationError(
                f"sblock {name!r} writes {store.buffer.name}{list(indices)}: each index must be "
                "one of its iteration variables as it is; shift what it reads instead"
            )
        at_axes: Any = tuple(axis.var for axis in axes)
        stage = replace(stage, indices=at_axes, place=indices)
    return stage if block.init is None else _reduction(stage, block.init.value)


def _axis(name: str, iteration: IterVar) -> Axis:
    low, extent = iteration.dom.min, iteration.dom.extent
    if not (isinstance(low, tirx.IntImm) and low.value == 0):
        raise DerivationError(
            f"sblock {name!r}: iteration variable {iteration.var.name} begins at {low}; let it "
            "begin at 0"
        )
    return Axis(iteration.var, int(extent) if isinstance(extent, tirx.IntImm) else extent)


def _reduction(stage: Stage, init: Expr) -> Stage:
    value = stage.value
    if (
        not isinstance(value, _COMBINATIONS)
        or not isinstance(value.a, TensorLoad)
        or not value.a.source.same_as(stage.buffer)
        or reads(value.b, stage.buffer)
    ):
        raise DerivationError(
            f"reduction {stage.name!r} stores {value}: write it as what is there, plus a summand "
            "(or its maximum or minimum with one) that does not read it"
        )
    return replace(stage, value=value.b, init=init, combine=type(value))
