"""The operator ``prefilltune::sequence_prefill``."""

from __future__ import annotations

from typing import Any

import torch  # pyright: ignore[reportMissingImports]  (extra [torch])

from .arguments import (
    aligned,
    refuse_gradients,
    require,
    require_aligned,
    require_arguments,
    require_lse_dtype,
    require_one_device,
)
from .registry import find

# Defined without torch.library.custom_op: its layers take twice the time of all of a call.
_library = torch.library.Library("prefilltune", "FRAGMENT")
_INPUTS = "Tensor query, Tensor key, Tensor value, Tensor valid_lens"
_RESULTS = "Tensor(a!) output, Tensor(b!) lse"
_OPTIONS = "float? sm_scale=None, str mask_mode='padded'"
_LSE = "ScalarType? lse_dtype=None"
_COPY = "bool copy_misaligned=False"


def sequence_prefill(
    query: Any,
    key: Any,
    value: Any,
    valid_lens: Any,
    *,
    sm_scale: float | None = None,
    mask_mode: str = "padded",
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
        ``[batch, qo_len, num_qo_heads, head_dim]``, contiguous.
    key, value : torch.Tensor
        ``[batch, kv_len, num_kv_heads, head_dim]``, contiguous, of the query's dtype and device.
    valid_lens : torch.Tensor
        ``[batch]`` int32 on the same device.
    sm_scale : float, optional
        Factor on query times key; ``1 / sqrt(head_dim)`` when absent.
    mask_mode : str
        ``padded`` or ``causal_padded_left``.
    lse_dtype : torch.dtype, optional
        Of the LSE: ``torch.float32`` where parts are merged (:func:`.merge_parts`); the query's, or
        that of ``out``, when absent.
    copy_misaligned : bool
        Whether to copy tensors on a GPU that begin at no multiple of 16 bytes, as views into the
        middle of others may; they are refused otherwise. Also of ``out``, which is computed
        elsewhere then and copied. On a CPU any tensor will do.
    out : tuple[torch.Tensor, torch.Tensor], optional
        Where output and LSE go; they share no memory with the inputs.

    Returns
    -------
    output : torch.Tensor
        Like ``query``; 0 in rows that keep no key.
    lse : torch.Tensor
        ``[batch, qo_len, num_qo_heads]``, base 2, of ``lse_dtype``; the lowest finite number in
        such rows. NaN, as the output, in rows that see NaN or Inf.

    Raises
    ------
    InvalidArgumentError
        For tensors that do not fit each other, are not contiguous, or begin where no kernel can
        read them.
    NoKernelError
        If no loaded library serves the call.
    NotDifferentiableError
        If an input requires a gradient and gradients are on.
    """
    if lse_dtype is not None:
        require_lse_dtype(query, lse_dtype)
    if out is None:
        options = sm_scale, mask_mode, lse_dtype, copy_misaligned
        return _functional(query, key, value, valid_lens, *options)
    if lse_dtype is not None:
        require("lse", out[1], out[1].shape, lse_dtype, out[1].device)
    _into(query, key, value, valid_lens, *out, sm_scale, mask_mode, copy_misaligned)
    return out


def _compute(
    query: Any,
    key: Any,
    value: Any,
    valid_lens: Any,
    sm_scale: float | None = None,
    mask_mode: str = "padded",
    lse_dtype: Any = None,
    copy_misaligned: bool = False,
) -> tuple[Any, Any]:
    output, lse = _results(query, lse_dtype)
    options = sm_scale, mask_mode, copy_misaligned
    _compute_into(query, key, value, valid_lens, output, lse, *options)
    return output, lse


def _compute_into(
    query: Any,
    key: Any,
    value: Any,
    valid_lens: Any,
    output: Any,
    lse: Any,
    sm_scale: float | None = None,
    mask_mode: str = "padded",
    copy_misaligned: bool = False,
) -> None:
    refuse_gradients(query, key, value, output, lse)
    if copy_misaligned:
        query, key, value = map(aligned, (query, key, value))
        computed, its_lse = aligned(output), aligned(lse)
        _compute_into(query, key, value, valid_lens, computed, its_lse, sm_scale, mask_mode)
        for result, mine in ((output, computed), (lse, its_lse)):
            if mine is not result:
                result.copy_(mine)
        return
    try:
        kernel = find(query, key, lse.dtype, sm_scale, mask_mode)
        if not (query.numel() and key.numel()):
            require_arguments(query, key, value, valid_lens, output, lse)
            output.zero_()
            lse.fill_(torch.finfo(lse.dtype).min)
        elif query.is_cuda:
            with torch.cuda.device(query.device):  # the kernel leaves its device the current one
                kernel(query, key, value, valid_lens, output, lse)
        else:
            kernel(query, key, value, valid_lens, output, lse)
    except Exception:  # a kernel checks all of its arguments; what it finds is said in our words
        require_arguments(query, key, value, valid_lens, output, lse)
        require_aligned(query=query, key=key, value=value, output=output, lse=lse)
        raise


def _results(query: Any, lse_dtype: Any) -> tuple[Any, Any]:
    output = torch.empty_like(query, memory_format=torch.contiguous_format)
    return output, query.new_empty(query.shape[:-1], dtype=lse_dtype)


def _fake(
    query: Any,
    key: Any,
    value: Any,
    valid_lens: Any,
    sm_scale: float | None = None,
    mask_mode: str = "padded",
    lse_dtype: Any = None,
    copy_misaligned: bool = False,
) -> tuple[Any, Any]:
    refuse_gradients(query, key, value)
    require_one_device(query=query, key=key, value=value, valid_lens=valid_lens)
    return _results(query, lse_dtype)


def _fake_into(
    query: Any, key: Any, value: Any, valid_lens: Any, output: Any, lse: Any, *options: Any
) -> None:
    tensors = {"query": query, "key": key, "value": value, "output": output, "lse": lse}
    refuse_gradients(*tensors.values())
    require_one_device(valid_lens=valid_lens, **tensors)


def _define(name: str, schema: str, compute: Any, fake: Any) -> None:
    _library.define(f"{name}{schema}", tags=torch.Tag.pt2_compliant_tag)
    for device in ("CPU", "CUDA"):
        _library.impl(name, compute, device)
    torch.library.register_fake(f"prefilltune::{name}", fake, lib=_library)


_define(
    "sequence_prefill",
    f"({_INPUTS}, {_OPTIONS}, {_LSE}, {_COPY}) -> (Tensor output, Tensor lse)",
    _compute,
    _fake,
)
_define(
    "sequence_prefill.out",
    f"({_INPUTS}, {_RESULTS}, {_OPTIONS}, {_COPY}) -> ()",
    _compute_into,
    _fake_into,
)
_functional = torch.ops.prefilltune.sequence_prefill.default
_into = torch.ops.prefilltune.sequence_prefill.out
