"""One PrimFunc with several scheduled kernels inside, of which the host picks one at each call."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from ...workloads import INDEXABLE, PackedShape, PrefillSpec, SymbolicShape
from ..backends import backend_of
from ..building.alignment import address_of, alignment_checks, parameter
from ..requiring import require
from .boundaries import SIZES, Leaf, Tree, alike
from .lengths import Lengths
from .views import (
    are_dense,
    makes_map,
    maps_of_views,
    on_views,
    reads_through_maps,
    view_checks,
    with_strides,
)

#: TVM's name for its own kernel.
SYMBOL = "batch_sequence_prefill_kv_masked"

#: What a function is told of the longest of packed sequences.
LONGEST = "max_seqlen_q"

_OFFSETS = ("cu_seqlens_q", "cu_seqlens_kv")


def dispatching_kernel(
    spec: PrefillSpec,
    tree: Tree,
    kernels: Mapping[str, Any],
    sizes: SymbolicShape | PackedShape,
    target: Any,
    lengths: Mapping[Lengths, tuple[Tree, Mapping[str, Any]]] | None = None,
    *,
    squares: Mapping[str, Any] | None = None,
    views: bool = False,
    longest: bool = False,
) -> Any:
    """Put scheduled kernels into one function.

    Parameters
    ----------
    spec : PrefillSpec
        Of all of them.
    tree : Tree
        Says which kernel serves which sizes.
    kernels : Mapping[str, tvm.tirx.PrimFunc]
        Scheduled on ``sizes``, by the names in ``tree``.
    sizes : SymbolicShape or PackedShape
        What the function learns from its arguments.
    target : tvm.target.Target
        What it will be built for.
    lengths : Mapping[Lengths, tuple[Tree, Mapping[str, tvm.tirx.PrimFunc]]], optional
        By ``(qo_len, kv_len)``, what serves exactly these lengths: kernels scheduled on them and on
        the batch of ``sizes``. ``tree`` and ``kernels`` serve all others.
    squares : Mapping[str, tvm.tirx.PrimFunc], optional
        In the place of ``kernels`` where keys are as many as queries, and of packed sequences are
        rows of the same ones: scheduled on ``squared(sizes)``.
    views : bool
        Whether ``q``, ``k`` and ``v`` may be views, whose last dimension alone is dense. Where
        kernels do not read all of them through tensor maps, views are served by one kernel more, of
        the schedule that ``tree`` names for the largest sizes.
    longest : bool
        Whether a call of packed sequences says, behind the offsets, how many queries the longest
        has: ``max_seqlen_q``, int64, 0 where that is not known. A kernel is chosen by it, and all
        compute the same.

    Returns
    -------
    tvm.tirx.PrimFunc
        ``(q, k, v, valid_lens, output, lse)`` with TVM's own names, shapes and dtypes, and the bias
        of a spec that has one behind ``valid_lens``:

        - ``q``, ``output``: ``[batch_size, qo_len, num_qo_heads, head_dim]``
        - ``k``, ``v``: ``[batch_size, kv_len, num_kv_heads, head_dim]``
        - ``valid_lens``: ``[batch_size]``, int32
        - ``bias``: ``[num_qo_heads, qo_len + kv_len - 1]``, float32
        - ``lse``: ``[batch_size, qo_len, num_qo_heads]``, the spec's ``lse_dtype``

        Of a packed spec what :func:`~prefilltune.workloads.plain_attention` says, and
        ``max_seqlen_q`` behind ``cu_seqlens_kv``; lengths that trees ask for are means there.

        A call refuses tensors too large for 32-bit indices and those that begin in the middle of a
        vector. One that takes views refuses those, too, whose rows begin there, that are broadcast
        or run backwards, and results that share memory with query, key or value. The function needs
        nothing of this package to be compiled.
    """
    from tvm import s_tir, tirx

    backend = backend_of(target.kind.name)
    buffers = _parameters(spec, sizes, target.kind.name)
    if views:
        buffers = list(map(with_strides, buffers))
    told = tirx.Var(LONGEST, "int64") if longest else None
    asked = _asked(sizes, told)
    served = _served(tree, kernels, buffers, sizes, asked)
    if squares:
        squared = _served(tree, squares, buffers, sizes, asked)
        served = _if(_are_square(buffers, sizes), squared, served)
    for (qo_len, kv_len), (own_tree, own_kernels) in (lengths or {}).items():
        equal = tirx.all(sizes.qo_len == qo_len, sizes.num_kv == kv_len)
        served = _if(equal, _served(own_tree, own_kernels, buffers, sizes, asked), served)
    every = [kernels, squares or {}, *(own_kernels for _, own_kernels in (lengths or {}).values())]
    if views and not all(reads_through_maps(own) for each in every for own in each.values()):
        largest = _copied(kernels[_largest(tree)], sizes)
        on_them = on_views(
            largest.params, _steps(largest, buffers, sizes), buffers, target.kind.name
        )
        served = _if(are_dense(buffers), served, on_them)
    steps = [
        *_size_checks(spec, sizes),
        *alignment_checks(buffers, target.kind.name),
        *(view_checks(buffers, target.kind.name) if views else ()),
        # A GPU launches no grid of nothing.
        _if(tirx.all(sizes.batch > 0, sizes.qo_len > 0), backend.picked(served)),
    ]
    root = s_tir.SBlock([], [], [], "root", tirx.SeqStmt(steps))
    attributes = {
        "global_symbol": SYMBOL,
        "tirx.noalias": True,
        "tirx.is_scheduled": True,
        "s_tir": True,
    }
    parameters = list(buffers)
    if told is not None:
        after = next(at for at, each in enumerate(buffers) if each.name == _OFFSETS[-1])
        parameters.insert(after + 1, told)
    function = tirx.PrimFunc(parameters, s_tir.SBlockRealize([], True, root)).with_attr(attributes)
    return backend.lowered(function, target)


def _served(
    tree: Tree,
    kernels: Mapping[str, Any],
    buffers: Sequence[Any],
    sizes: SymbolicShape | PackedShape,
    asked: Mapping[str, Any],
) -> Any:
    """Run the kernel that a tree names; ``asked`` is what it may ask for."""
    from tvm import tirx

    names = list(kernels)
    served = _with_parameters(kernels[names[-1]], buffers, sizes)
    if len(names) == 1:
        return served
    choice = tirx.Var("kernel", "int32")
    for index, name in reversed(list(enumerate(names[:-1]))):
        kernel = _with_parameters(kernels[name], buffers, sizes)
        served = _if(tirx.EQ(choice, tirx.const(index, "int32")), kernel, served)
    return tirx.SeqStmt([tirx.Bind(choice, _index(tree, names, asked)), served])


def _index(tree: Tree, names: Sequence[str], asked: Mapping[str, Any]) -> Any:
    """Which of ``names`` a tree names, as an expression of the sizes that it asks for."""
    from tvm import tirx

    if isinstance(tree, Leaf):
        return tirx.const(names.index(tree.kernel), "int32")
    less, rest = (_index(each, names, asked) for each in (tree.less, tree.rest))
    return tirx.Select(asked[tree.size] < tree.below, less, rest)


def _asked(sizes: SymbolicShape | PackedShape, longest: Any) -> dict[str, Any]:
    """What boundaries ask of :class:`~.boundaries.Sizes`, as expressions by name."""
    from tvm import tirx

    lengths = sizes.qo_len, sizes.num_kv
    if isinstance(sizes, PackedShape):
        lengths = tuple(total // tirx.max(sizes.batch, 1) for total in lengths)
    mixed = tirx.const(1, "int32")
    if longest is not None:
        total, mean = (tirx.Cast("int64", each) for each in (sizes.qo_len, lengths[0]))
        # Whatever is said, no sequence has more rows than there are: numbers stay in range.
        known = tirx.all(longest > 0, alike(tirx.min(longest, total), mean))
        mixed = tirx.Select(known, tirx.const(0, "int32"), mixed)
    return dict(zip(SIZES, (sizes.batch, *lengths, mixed), strict=True))


def _are_square(buffers: Sequence[Any], sizes: SymbolicShape | PackedShape) -> Any:
    """Whether a call is what kernels on ``squared(sizes)`` serve, as an expression."""
    from tvm import tirx

    offsets = [address_of(each) for each in buffers if each.name in _OFFSETS]
    same = [tirx.EQ(one, other) for one, other in itertools.pairwise(offsets)]
    return tirx.all(tirx.EQ(sizes.qo_len, sizes.num_kv), *same)


def _largest(tree: Tree) -> str:
    """The kernel that a tree names for sizes without end."""
    while not isinstance(tree, Leaf):
        tree = tree.rest
    return tree.kernel


def _copied(kernel: Any, sizes: SymbolicShape | PackedShape) -> Any:
    """A kernel on the same sizes, with definitions of its own."""
    from tvm import s_tir, tirx

    own = s_tir.renew_defs(tirx.PrimFunc([*kernel.params, *sizes.sizes], kernel.body))
    its_sizes = own.params[len(kernel.params) :]
    return own.specialize(dict(zip(its_sizes, sizes.sizes, strict=True)))


def _if(condition: Any, then: Any, otherwise: Any = None) -> Any:
    """A choice of the host's; under one that threads might see differently no barrier may stand."""
    from tvm import tirx

    return tirx.IfThenElse(tirx.op.tvm_thread_invariant(condition), then, otherwise)


def _parameters(spec: PrefillSpec, sizes: SymbolicShape | PackedShape, kind: str) -> list[Any]:
    batch = () if spec.is_packed else (sizes.batch,)
    rows = (*batch, sizes.qo_len, spec.num_qo_heads)
    queries = (*rows, spec.head_dim)
    keys = (*batch, sizes.num_kv, spec.num_kv_heads, spec.head_dim)
    bias = (spec.num_qo_heads, sizes.bias_width)
    if spec.is_packed:
        lengths = dict.fromkeys(_OFFSETS, (sizes.num_offsets,))
    else:
        lengths = {"valid_lens": (sizes.batch,)}
    parameters: dict[str, tuple[tuple[Any, ...], str]] = {
        "q": (queries, spec.dtype),
        "k": (keys, spec.dtype),
        "v": (keys, spec.dtype),
        **{name: (shape, "int32") for name, shape in lengths.items()},
        **({"bias": (bias, "float32")} if spec.bias else {}),
        "output": (queries, spec.dtype),
        "lse": (rows, spec.lse_type),
    }
    return [parameter(shape, dtype, name, kind) for name, (shape, dtype) in parameters.items()]


def _with_parameters(
    kernel: Any, buffers: Sequence[Any], sizes: SymbolicShape | PackedShape
) -> Any:
    """The body of a kernel, its own parameters as views of ``buffers``.

    A view has the kernel's shape: lengths that it knows are the strides of what it reads.
    """
    from tvm import tirx

    views = [
        tirx.DeclBuffer(own, data=whole.data)
        for own, whole in zip(kernel.params, buffers, strict=True)
    ]
    return tirx.SeqStmt([*views, *_steps(kernel, buffers, sizes)])


def _steps(
    kernel: Any, buffers: Sequence[Any], sizes: SymbolicShape | PackedShape
) -> Sequence[Any]:
    """The statements of a kernel; its tensor maps are of ``buffers``, where there are keys.

    CUDA makes none of no rows, and nothing reads one.
    """
    steps = maps_of_views(kernel.body, buffers)
    return [_if(sizes.num_kv > 0, each) if makes_map(each) else each for each in steps]


def _size_checks(spec: PrefillSpec, sizes: SymbolicShape | PackedShape) -> list[Any]:
    """Refuse tensors whose elements 32-bit indices cannot number."""
    from tvm import tirx

    def fewer(count: Any, times: int) -> Any:
        return count * tirx.const(times, "int64") < tirx.const(INDEXABLE, "int64")

    count = 1 if spec.is_packed else sizes.batch
    batch, qo_len, kv_len, distances = (
        tirx.Cast("int64", each) for each in (count, sizes.qo_len, sizes.num_kv, sizes.bias_width)
    )
    indexable = [
        ("q", fewer(batch * qo_len, spec.num_qo_heads * spec.head_dim), "batch"),
        ("k", fewer(batch * kv_len, spec.num_kv_heads * spec.head_dim), "batch"),
    ]
    if spec.bias:
        indexable.append(("bias", fewer(distances, spec.num_qo_heads), "queries or the keys"))
    return [
        require(
            holds,
            f"{name} has {INDEXABLE} (2^31) elements or more, which kernels cannot number: split "
            f"the {what}",
        )
        for name, holds, what in indexable
    ]
