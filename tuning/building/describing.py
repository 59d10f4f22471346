"""The description of a record's workload, of which all shapes share one parse.

Parsing TVMScript takes as long as replaying a trace. Description and trace hold for any shape, so
that a description is parsed with symbolic sizes and specialized to those at hand.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

from ...workloads import PackedShape, PrefillShape, PrefillSpec, SymbolicShape
from ...workloads.shapes import is_square
from ...workloads.sizes import require_indexable, sizes_at_call
from ..spaces import SPACES, Variant

_KEPT = 64


def describe(
    space: str,
    spec: PrefillSpec,
    shape: PrefillShape | SymbolicShape | PackedShape,
    variant: Variant,
) -> Any:
    """What :meth:`~.spaces.DesignSpace.describe` of a space means, in less time.

    Of numbers it is what that returns for variables, with these in their place: enough to tell what
    a record is of, and its arguments.

    Parameters
    ----------
    space : str
        Its name.

    Returns
    -------
    tvm.IRModule
        With variables of its own, but for those of ``shape``.
    """
    if not SPACES[space].any_shape:
        return SPACES[space].describe(spec, shape, variant)
    return _specialized(_for_every_shape(space, spec, tuple(sorted(variant.items()))), spec, shape)


def describe_as_tuned(
    space: str,
    spec: PrefillSpec,
    shape: PrefillShape | SymbolicShape | PackedShape,
    variant: Variant,
) -> Any:
    """What a search schedules, where sizes are known from the start.

    It means what :func:`describe` returns, and asks less: a derivation leaves out what its sizes
    prove, such as whether a row of causal attention sees a key where queries and keys are as many.
    Of sizes that are all learned at a call, each for itself, the two are the same.
    """
    nothing_known = not isinstance(shape, PrefillShape) and not (
        is_square(shape) or any(isinstance(size, int) for size in shape.sizes)
    )
    if nothing_known:
        return describe(space, spec, shape, variant)
    return SPACES[space].describe(spec, shape, variant)


def describe_for_every_shape(space: str, spec: PrefillSpec, variant: Variant) -> Any | None:
    """The description that the records of all shapes share; none where each shape has its own."""
    if not SPACES[space].any_shape:
        return None
    return describe(space, spec, sizes_at_call(spec), variant)


@lru_cache(maxsize=_KEPT)
def _for_every_shape(space: str, spec: PrefillSpec, variant: tuple[tuple[str, Any], ...]) -> Any:
    """A description as a PrimFunc whose last parameters are its sizes."""
    from tvm.tirx import PrimFunc

    sizes = _sizes(spec.layout)
    function = SPACES[space].describe(spec, sizes, dict(variant))["main"]
    parameters = [*function.params, *sizes.sizes]
    return PrimFunc(parameters, function.body, function.ret_type, function.attrs)


@cache
def _sizes(layout: str) -> SymbolicShape | PackedShape:
    """Variables that all descriptions share before they are specialized, and parses with them."""
    return PackedShape.fresh() if layout == "packed" else SymbolicShape.fresh()


def _specialized(
    function: Any, spec: PrefillSpec, shape: PrefillShape | SymbolicShape | PackedShape
) -> Any:
    import tvm
    from tvm.s_tir import renew_defs

    require_indexable(spec, shape)
    own = renew_defs(function)
    given = shape
    if spec.is_packed and isinstance(shape, PrefillShape):
        given = PackedShape.filled(shape)
    sizes = zip(own.params[-len(given.sizes) :], given.sizes, strict=True)
    return tvm.IRModule({"main": own.specialize(dict(sizes))})
