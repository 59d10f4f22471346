"""The operator ``prefilltune::packed_prefill``, and PyTorch's own call of the same."""

from __future__ import annotations

import math
from collections import namedtuple
from collections.abc import Sequence
from typing import Any

import torch  # pyright: ignore[reportMissingImports]  (extra [torch])

from .arguments import (
    refuse_gradients,
    require,
    require_aligned,
    require_apart,
    require_heads,
    require_longest,
    require_lse_dtype,
    require_offsets,
    require_one_device,
    require_score_options,
)
from .errors import InvalidArgumentError
from .masks import packed_mask_name
from .op import OPTIONS, RESULTS, called, define, new_results, schema_of
from .registry import find

_INPUTS = "Tensor query, Tensor key, Tensor value, Tensor cu_seqlens_q, Tensor cu_seqlens_kv"

#: As the other operator's, but for what is about padding.
_OPTIONS: dict[str, tuple[str, Any]] = {
    "sm_scale": OPTIONS["sm_scale"],
    "mask_mode": ("str", "packed"),
    **{name: OPTIONS[name] for name in ("lse_dtype", "softcap", "bias")},
    "max_seqlen_q": ("SymInt?", None),
}
_SCHEMA = schema_of(_OPTIONS)
#: PyTorch leaves out what ends a call as the schema would.
_Options = namedtuple("_Options", _OPTIONS, defaults=[usual for _, usual in _OPTIONS.values()])

_LENGTHS = ("cu_seqlens_q", "cu_seqlens_kv")


def packed_prefill(
    query: Any,
    key: Any,
    value: Any,
    cu_seqlens_q: Any,
    cu_seqlens_kv: Any,
    *,
    sm_scale: float | None = None,
    window: Sequence[int | None] | None = None,
    softcap: float | None = None,
    bias: Any = None,
    max_seqlen_q: int | None = None,
    lse_dtype: Any = None,
    out: tuple[Any, Any] | None = None,
) -> tuple[Any, Any]:
    """Attention of sequences that lie one behind another, by a tuned kernel of a loaded library.

    It runs on the current stream, allocates nothing but its results, copies nothing and waits for
    nothing: the offsets are read on the device. For inference: there is no gradient.

    Parameters
    ----------
    query : torch.Tensor
        ``[total_q, num_qo_heads, head_dim]``, or a view of that shape whose last dimension is
        dense: a part of a fused projection, or transposed.
    key, value : torch.Tensor
        ``[total_kv, num_kv_heads, head_dim]``, likewise, of the query's dtype and device.
    cu_seqlens_q, cu_seqlens_kv : torch.Tensor
        ``[batch + 1]`` int32 on the same device: where the queries and the keys of each sequence
        begin, from 0 on, and where those of the last end, at the totals. On a GPU, where nobody
        looks at them beforehand, others are clamped to what there is: nothing else is read or
        written, and rows of no sequence are left as they are. Where both are one tensor, as of
        attention of sequences to themselves, kernels on a GPU take less time.
    sm_scale : float, optional
        Factor on query times key; ``1 / sqrt(head_dim)`` when absent.
    window : Sequence[int or None], optional
        How many columns a row sees to its left and to its right, besides its own; None where it
        is open. ``(None, 0)`` is causal. The own column of a sequence's last row is its last.
    softcap : float, optional
        A scaled score ``x`` becomes ``softcap * tanh(x / softcap)``.
    bias : torch.Tensor, optional
        ``[num_qo_heads, width]`` float32, contiguous, on the same device: the entry
        ``distance + width // 2`` is added, where a column is at distance 0 from the row whose own
        it is. A width of twice the longest sequence less 1 holds all; beyond its ends, the entry
        at the end is added.
    max_seqlen_q : int, optional
        How many queries the longest sequence has, where that is known. The kernel is chosen by it:
        which is the fastest differs where all are about as long. No result depends on it.
    lse_dtype : torch.dtype, optional
        Of the LSE: ``torch.float32`` where parts are merged; the query's, or that of ``out``, when
        absent.
    out : tuple[torch.Tensor, torch.Tensor], optional
        Where output and LSE go; they share no memory with the inputs.

    Returns
    -------
    output : torch.Tensor
        Like ``query``, dense; 0 in rows that keep no key.
    lse : torch.Tensor
        ``[total_q, num_qo_heads]``, base 2, of ``lse_dtype``; the lowest finite number in such
        rows. NaN, as the output, in rows that see NaN or Inf.

    Raises
    ------
    InvalidArgumentError
        For tensors that do not fit each other, or lie where no kernel can read them; for another
        option out of its range; on a CPU, for offsets that do not begin with 0, decrease, or do not
        end with the totals.
    NoKernelError
        If no loaded library serves the call.
    NotDifferentiableError
        If an input requires a gradient and gradients are on.
    """
    if lse_dtype is not None:
        require_lse_dtype(query, lse_dtype)
    if softcap is not None or bias is not None:
        require_score_options(softcap, bias)
    if max_seqlen_q is not None:
        require_longest("max_seqlen_q", max_seqlen_q)
    options = sm_scale, packed_mask_name(window), lse_dtype, softcap, bias, max_seqlen_q
    tensors = query, key, value, cu_seqlens_q, cu_seqlens_kv
    if out is None:
        return _functional(*tensors, *options)
    _into(*tensors, *out, *options)
    return out


def varlen_attn(
    query: Any,
    key: Any,
    value: Any,
    cu_seq_q: Any,
    cu_seq_k: Any,
    max_q: int,
    max_k: int,
    *,
    return_aux: Any = None,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
    seqused_k: Any = None,
    block_table: Any = None,
    num_splits: int | None = None,
) -> Any:
    """:func:`packed_prefill` in the place of ``torch.nn.attention.varlen.varlen_attn``.

    Parameters
    ----------
    query, key, value, cu_seq_q, cu_seq_k
        As there, and as :func:`packed_prefill` takes them.
    max_q, max_k : int
        How many queries and keys the longest sequence has: the kernel is chosen by the first.
    return_aux : AuxRequest, optional
        Its ``lse`` asks for the LSE too, from a kernel whose LSE is float32.
    scale : float, optional
        As ``sm_scale``.
    window_size : tuple of int
        As ``window``, with -1 where it is open.
    enable_gqa : bool
        Whether there may be fewer heads of keys than of queries.
    seqused_k, block_table
        Not served: keys lie one behind another, all of them.
    num_splits : int, optional
        Not needed: no row's keys are split.

    Returns
    -------
    torch.Tensor or tuple of torch.Tensor
        The output; with it, if it is asked for, the LSE ``[num_qo_heads, total_q]``, float32, base
        e, -Inf in rows that keep no key.

    Raises
    ------
    InvalidArgumentError
        For what is not served, and as :func:`packed_prefill`.
    NoKernelError, NotDifferentiableError
        As :func:`packed_prefill`.
    """
    refused = {"seqused_k": seqused_k, "block_table": block_table}
    for name, given in refused.items():
        if given is not None:
            raise InvalidArgumentError(
                f"{name} is given, and no kernel here reads keys through it: pack the keys, and "
                "leave it out, or call torch.nn.attention.varlen.varlen_attn"
            )
    if max_q is not None:
        require_longest("max_q", max_q)
    if cu_seq_k is None:
        raise InvalidArgumentError("cu_seq_k is None; expected where the keys of sequences begin")
    if not enable_gqa and query.shape[-2] != key.shape[-2]:
        raise InvalidArgumentError(
            f"query has {query.shape[-2]} heads and key {key.shape[-2]}: pass enable_gqa=True"
        )
    window = [None if end == -1 else end for end in window_size]
    wants_lse = return_aux is not None and return_aux.lse
    output, lse = packed_prefill(
        query, key, value, cu_seq_q, cu_seq_k,
        sm_scale=scale, window=window, max_seqlen_q=max_q,
        lse_dtype=torch.float32 if wants_lse else None,
    )  # fmt: skip
    if not wants_lse:
        return output
    empty = lse == torch.finfo(lse.dtype).min
    natural = (lse * math.log(2)).masked_fill(empty, -math.inf)
    return output, natural.transpose(0, 1).contiguous()


def _compute(*arguments: Any) -> tuple[Any, Any]:
    tensors, options = arguments[:5], arguments[5:]
    results = new_results(tensors[0], _Options(*options).lse_dtype)
    _write(*tensors, *results, *options)
    return results


def _compute_into(
    query: Any,
    key: Any,
    value: Any,
    cu_seqlens_q: Any,
    cu_seqlens_kv: Any,
    output: Any,
    lse: Any,
    *options: Any,
) -> None:
    # Of kernels, those that take views alone look for it.
    require_apart(output, lse, query=query, key=key, value=value, bias=_Options(*options).bias)
    _write(query, key, value, cu_seqlens_q, cu_seqlens_kv, output, lse, *options)


def _write(
    query: Any,
    key: Any,
    value: Any,
    cu_seqlens_q: Any,
    cu_seqlens_kv: Any,
    output: Any,
    lse: Any,
    *options: Any,
) -> None:
    given = _Options(*options)
    bias, offsets = given.bias, (cu_seqlens_q, cu_seqlens_kv)
    refuse_gradients(query, key, value, bias, output, lse)
    if given.lse_dtype not in (None, lse.dtype):
        require("lse", lse, lse.shape, given.lse_dtype, lse.device)

    def check() -> None:
        _require(query, key, value, *offsets, bias, output, lse)
        require_aligned("", query=query, key=key, value=value, bias=bias, output=output, lse=lse)

    lengths = (*offsets, given.max_seqlen_q or 0)
    arguments = (query, key, value, *lengths, *(() if bias is None else (bias,)), output, lse)
    try:
        if not query.is_cuda:
            for name, each, total in zip(_LENGTHS, offsets, (len(query), len(key)), strict=True):
                require_offsets(name, each, total)
        kernel = find(
            query, key, value, lse.dtype, given.sm_scale, given.mask_mode, given.softcap, bias
        )
        if query.numel() and key.numel():
            called(kernel, arguments)
        else:
            check()
            output.zero_()
            lse.fill_(torch.finfo(lse.dtype).min)
    except Exception:  # a kernel checks all of its arguments; what it finds is said in our words
        check()
        raise


def _require(
    query: Any,
    key: Any,
    value: Any,
    cu_seqlens_q: Any,
    cu_seqlens_kv: Any,
    bias: Any,
    output: Any,
    lse: Any,
) -> None:
    dtype, device = query.dtype, query.device
    require_heads(3, query=query, key=key)
    _, num_qo_heads, head_dim = query.shape
    require("query", query, query.shape, dtype, device)
    for name, each in (("key", key), ("value", value)):
        require(name, each, (*key.shape[:2], head_dim), dtype, device)
    offsets = (max(cu_seqlens_q.numel(), 1),)
    for name, each in zip(_LENGTHS, (cu_seqlens_q, cu_seqlens_kv), strict=True):
        require(name, each, offsets, torch.int32, device)
    if bias is not None:
        width = bias.shape[-1] if bias.dim() == 2 else 0
        require("bias", bias, (num_qo_heads, width), torch.float32, device)
    require("output", output, query.shape, dtype, device)
    is_float = lse.dtype == torch.float32  # which every LSE may be
    require("lse", lse, query.shape[:2], lse.dtype if is_float else dtype, device)


def _fake(*arguments: Any) -> tuple[Any, Any]:
    tensors, given = arguments[:5], _Options(*arguments[5:])
    _require_one_device(tensors, given.bias)
    return new_results(tensors[0], given.lse_dtype)


def _fake_into(*arguments: Any) -> None:
    tensors, results, given = arguments[:5], arguments[5:7], _Options(*arguments[7:])
    _require_one_device(tensors, given.bias, *results)


def _require_one_device(tensors: Sequence[Any], bias: Any, *results: Any) -> None:
    query, key, value, *offsets = tensors
    refuse_gradients(query, key, value, bias, *results)
    others = dict(zip(("output", "lse"), results, strict=False))
    lengths = dict(zip(_LENGTHS, offsets, strict=True))
    require_one_device(query=query, key=key, value=value, bias=bias, **lengths, **others)


define("packed_prefill", f"({_INPUTS}, {_SCHEMA}) -> (Tensor output, Tensor lse)", _compute, _fake)
define("packed_prefill.out", f"({_INPUTS}, {RESULTS}, {_SCHEMA}) -> ()", _compute_into, _fake_into)
_functional = torch.ops.prefilltune.packed_prefill.default
_into = torch.ops.prefilltune.packed_prefill.out
