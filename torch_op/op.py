"""The operator ``prefilltune::sequence_prefill``."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping, Sequence
from typing import Any

import torch  # pyright: ignore[reportMissingImports]  (extra [torch])

from .arguments import (
    aligned,
    refuse_gradients,
    require,
    require_aligned,
    require_apart,
    require_arguments,
    require_lse_dtype,
    require_one_device,
    require_padding_output,
    require_score_options,
)
from .masks import mask_name
from .registry import find

# Defined without torch.library.custom_op: its layers take twice the time of all of a call.
_library = torch.library.Library("prefilltune", "FRAGMENT")
_INPUTS = "Tensor query, Tensor key, Tensor value, Tensor valid_lens"
RESULTS = "Tensor(a!) output, Tensor(b!) lse"

#: What a call says besides these, by name: its type in PyTorch's schema and what is meant when it
#: is absent. In this order, whose beginning is that of earlier versions.
OPTIONS: dict[str, tuple[str, Any]] = {
    "sm_scale": ("float?", None),
    "mask_mode": ("str", "padded"),
    "lse_dtype": ("ScalarType?", None),
    "copy_misaligned": ("bool", False),
    "softcap": ("float?", None),
    "bias": ("Tensor?", None),
    "padding_output": ("str", "zero"),
}


def schema_of(options: Mapping[str, tuple[str, Any]]) -> str:
    """Options in PyTorch's schema."""
    return ", ".join(f"{type_} {name}={usual!r}" for name, (type_, usual) in options.items())


#: PyTorch leaves out what ends a call as the schema would.
_Options = namedtuple("_Options", OPTIONS, defaults=[usual for _, usual in OPTIONS.values()])


def sequence_prefill(
    query: Any,
    key: Any,
    value: Any,
    valid_lens: Any,
    *,
    sm_scale: float | None = None,
    mask_mode: str | None = None,
    padding: str | None = None,
    window: Sequence[int | None] | None = None,
    softcap: float | None = None,
    bias: Any = None,
    padding_output: str = "zero",
    lse_dtype: Any = None,
    copy_misaligned: bool = False,
    out: tuple[Any, Any] | None = None,
) -> tuple[Any, Any]:
    """Masked attention over padded sequences, by a tuned kernel of a loaded library.

    A kernel for exactly this shape serves the call if there is one, otherwise the one for every
    shape. It runs on the current stream, allocates nothing but its results and copies nothing,
    unless ``copy_misaligned`` lets it.
    For inference: there is no gradient.

    Parameters
    ----------
    query : torch.Tensor
        ``[batch, qo_len, num_qo_heads, head_dim]``, or a view of that shape whose last dimension is
        dense: a part of a fused projection, or transposed.
    key, value : torch.Tensor
        ``[batch, kv_len, num_kv_heads, head_dim]``, likewise, of the query's dtype and device.
    valid_lens : torch.Tensor
        ``[batch]`` int32 on the same device.
    sm_scale : float, optional
        Factor on query times key; ``1 / sqrt(head_dim)`` when absent.
    mask_mode : str, optional
        A name for padding and window, instead of these: ``padded`` (right, open; meant when all
        are absent), ``padded_left``, ``causal_padded`` or ``causal_padded_left``.
    padding : str, optional
        ``right``, which is meant when absent, or ``left``: the end at which sequences are filled.
    window : Sequence[int or None], optional
        How many columns a row sees to its left and to its right, besides its own; None where it
        is open. The own column of the last valid row is the last valid column.
    softcap : float, optional
        A scaled score ``x`` becomes ``softcap * tanh(x / softcap)``.
    bias : torch.Tensor, optional
        ``[num_qo_heads, qo_len + kv_len - 1]`` float32, contiguous, on the same device: its entry
        ``column - row + qo_len - 1`` is added to the scaled and capped score.
    padding_output : str
        What padding of output and LSE becomes: ``zero``, or ``untouched``: a kernel that writes
        nothing there, so that what ``out`` held stays, and results of its own hold anything.
    lse_dtype : torch.dtype, optional
        Of the LSE: ``torch.float32`` where parts are merged (:func:`.merge_parts`); the query's, or
        that of ``out``, when absent.
    copy_misaligned : bool
        Whether to copy tensors on a GPU that begin at no multiple of 16 bytes, as views into the
        middle of others may, or have strides of none; they are refused otherwise. Also of ``out``,
        which is computed elsewhere then and copied. On a CPU any tensor will do.
    out : tuple[torch.Tensor, torch.Tensor], optional
        Where output and LSE go; they share no memory with the inputs.

    Returns
    -------
    output : torch.Tensor
        Like ``query``, dense; 0 in rows that keep no key, unless they are padding that stays
        untouched.
    lse : torch.Tensor
        ``[batch, qo_len, num_qo_heads]``, base 2, of ``lse_dtype``; the lowest finite number in
        such rows. NaN, as the output, in rows that see NaN or Inf.

    Raises
    ------
    InvalidArgumentError
        For tensors that do not fit each other, or lie where no kernel can read them; for a dtype
        that no kernel has, or another option out of its range.
    NoKernelError
        If no loaded library serves the call.
    NotDifferentiableError
        If an input requires a gradient and gradients are on.
    """
    if lse_dtype is not None:
        require_lse_dtype(query, lse_dtype)
    if softcap is not None or bias is not None:
        require_score_options(softcap, bias)
    if padding_output != "zero":
        require_padding_output(padding_output)
    mask = mask_name(mask_mode, padding, window)
    options = sm_scale, mask, lse_dtype, copy_misaligned, softcap, bias, padding_output
    if out is None:
        return _functional(query, key, value, valid_lens, *options)
    _into(query, key, value, valid_lens, *out, *options)
    return out


def _compute(query: Any, key: Any, value: Any, valid_lens: Any, *options: Any) -> tuple[Any, Any]:
    output, lse = new_results(query, _Options(*options).lse_dtype)
    _write(query, key, value, valid_lens, output, lse, *options)
    return output, lse


def _compute_into(
    query: Any, key: Any, value: Any, valid_lens: Any, output: Any, lse: Any, *options: Any
) -> None:
    # Of kernels, those that take views alone look for it.
    require_apart(output, lse, query=query, key=key, value=value, bias=_Options(*options).bias)
    _write(query, key, value, valid_lens, output, lse, *options)


def _write(
    query: Any, key: Any, value: Any, valid_lens: Any, output: Any, lse: Any, *options: Any
) -> None:
    given = _Options(*options)
    bias = given.bias
    refuse_gradients(query, key, value, bias, output, lse)
    if given.lse_dtype not in (None, lse.dtype):
        require("lse", lse, lse.shape, given.lse_dtype, lse.device)
    if given.copy_misaligned:
        copies = aligned(query=query, key=key, value=value, bias=bias, output=output, lse=lse)
        *inputs, bias, computed, its_lse = copies
        options = given._replace(copy_misaligned=False, bias=bias)
        _write(*inputs, valid_lens, computed, its_lse, *options)
        for result, mine in ((output, computed), (lse, its_lse)):
            if mine is not result:
                result.copy_(mine)
        return
    arguments = (query, key, value, valid_lens, *(() if bias is None else (bias,)), output, lse)
    try:
        kernel = find(
            query, key, value, lse.dtype, given.sm_scale, given.mask_mode, given.softcap, bias,
            given.padding_output,
        )  # fmt: skip
        if not (query.numel() and key.numel()):
            require_arguments(query, key, value, valid_lens, bias, output, lse)
            _clear(output, lse, valid_lens, given)
        else:
            called(kernel, arguments)
    except Exception:  # a kernel checks all of its arguments; what it finds is said in our words
        require_arguments(query, key, value, valid_lens, bias, output, lse)
        require_aligned(query=query, key=key, value=value, bias=bias, output=output, lse=lse)
        raise


def _clear(output: Any, lse: Any, valid_lens: Any, given: Any) -> None:
    """Write the rows of a call without keys, or without queries."""
    rows = torch.ones(output.shape[:2], dtype=torch.bool, device=output.device)
    if given.padding_output == "untouched":
        length = output.shape[1]
        place = torch.arange(length, device=output.device)
        is_left = "padded_left" in given.mask_mode
        rows = (length - 1 - place if is_left else place) < valid_lens[:, None]
    output.masked_fill_(rows[..., None, None], 0)
    lse.masked_fill_(rows[..., None], torch.finfo(lse.dtype).min)


def new_results(query: Any, lse_dtype: Any) -> tuple[Any, Any]:
    output = torch.empty_like(query, memory_format=torch.contiguous_format)
    return output, query.new_empty(query.shape[:-1], dtype=lse_dtype)


def _fake(query: Any, key: Any, value: Any, valid_lens: Any, *options: Any) -> tuple[Any, Any]:
    given = _Options(*options)
    refuse_gradients(query, key, value, given.bias)
    require_one_device(query=query, key=key, value=value, valid_lens=valid_lens, bias=given.bias)
    return new_results(query, given.lse_dtype)


def _fake_into(
    query: Any, key: Any, value: Any, valid_lens: Any, output: Any, lse: Any, *options: Any
) -> None:
    bias = _Options(*options).bias
    tensors = {"query": query, "key": key, "value": value, "bias": bias}
    results = {"output": output, "lse": lse}
    refuse_gradients(*tensors.values(), *results.values())
    require_one_device(valid_lens=valid_lens, **tensors, **results)


def called(kernel: Any, arguments: Sequence[Any]) -> None:
    """Call a kernel on the device of its arguments."""
    query = arguments[0]
    if query.is_cuda:
        with torch.cuda.device(query.device):  # the kernel leaves its device the current one
            kernel(*arguments)
    else:
        kernel(*arguments)


def define(name: str, schema: str, compute: Any, fake: Any) -> None:
    """Define an operator of PyTorch's."""
    _library.define(f"{name}{schema}", tags=torch.Tag.pt2_compliant_tag)
    for device in ("CPU", "CUDA"):
        _library.impl(name, compute, device)
    torch.library.register_fake(f"prefilltune::{name}", fake, lib=_library)


_SCHEMA = schema_of(OPTIONS)
define(
    "sequence_prefill",
    f"({_INPUTS}, {_SCHEMA}) -> (Tensor output, Tensor lse)",
    _compute,
    _fake,
)
define(
    "sequence_prefill.out",
    f"({_INPUTS}, {RESULTS}, {_SCHEMA}) -> ()",
    _compute_into,
    _fake_into,
)
_functional = torch.ops.prefilltune.sequence_prefill.default
_into = torch.ops.prefilltune.sequence_prefill.out
