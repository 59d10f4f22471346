"""The attention function: a kernel serves a layer's call, or something else does and it is told."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ..torch import Spec, sequence_prefill
from ..torch.masks import mask_name
from ..torch.registry import has_kernel
from .errors import NotServedError
from .masks import FULL, LEFT, RIGHT, Mask, Padding, mask_of_none
from .session import Session, count_compiled, session_of
from .windows import CAUSAL, Window

#: What changes scores in ways that no kernel knows, nor SDPA.
_BEYOND_SDPA = ("s_aux", "sinks")
_CACHED = "it decodes, or continues what is in a cache"


class _Call(NamedTuple):
    """A call of a kernel, but for the query, the key and the value."""

    spec: str
    mask_mode: str
    sm_scale: float
    factor: float
    softcap: float | None
    lse_dtype: Any
    lens: Any
    guard: Any
    bias: Any


def attention(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    softcap: float | None = None,
    position_bias: Any = None,
    **more: Any,
) -> tuple[Any, None]:
    """What transformers calls for a layer with ``attn_implementation="prefilltune"``.

    Parameters
    ----------
    query, key, value : torch.Tensor
        ``[batch, heads, length, head_dim]``.
    attention_mask : Mask, torch.Tensor or None
        What :func:`.make_mask` made, ``[batch, 1, qo_len, kv_len]`` of someone else, or none.

    Returns
    -------
    tuple[torch.Tensor, None]
        ``[batch, length, heads, head_dim]``, and no weights. Rows of padding hold zeros, or what
        they see.

    Raises
    ------
    NotServedError
        If no kernel serves the call and the model was enabled with ``strict``; for sequences that
        are packed into one row.
    """
    session = session_of(module)
    if more.get("cu_seq_lens_q") is not None:
        raise NotServedError(
            "sequences are packed into one row, which models are not served with yet: pass a "
            "padded batch with its attention_mask"
        )
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    mask = attention_mask
    if mask is None:
        mask = mask_of_none(query, key, causal and query.shape[2] > 1)
    beyond = [name for name in _BEYOND_SDPA if more.get(name) is not None]
    if beyond:
        call = f"{beyond[0]} changes its scores, which no kernel knows"
    elif dropout:
        call = "it drops out weights, as in training: call model.eval()"
    else:
        call = _call(session, module, query, key, value, mask, scaling, softcap, position_bias)
    if isinstance(call, _Call):
        return _served(session, call, mask, query, key, value), None
    if session.strict:
        raise NotServedError(
            f"{type(module).__name__} is not served by a kernel: {call}; or enable the model "
            "without strict, and SDPA serves it"
        )
    _count(session, "handed_over", call)
    more |= {"scaling": scaling, "dropout": dropout, "position_bias": position_bias}
    if softcap is None and not beyond:
        pairs = mask.pairs() if isinstance(attention_mask, Mask) else attention_mask
        more["is_causal"] = is_causal
        return sdpa_attention_forward(module, query, key, value, pairs, **more)
    # SDPA would leave out what it does not know; the model's own function does not.
    addends = _addends(mask, query.dtype)
    own = sys.modules[type(module).__module__].eager_attention_forward  # pyright: ignore
    output, _ = own(module, query, key, value, addends, softcap=softcap, **more)
    return output, None


def _call(
    session: Session,
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    mask: Any,
    scaling: float | None,
    softcap: float | None,
    position_bias: Any,
) -> _Call | str:
    """The kernel's call, or why there is none and what can be done."""
    if torch.is_grad_enabled() and (
        query.requires_grad or key.requires_grad or value.requires_grad
    ):
        return "it needs a gradient, which kernels have none of: call it under inference_mode()"
    if not isinstance(mask, Mask):
        return (
            "its mask was made ahead, for a static cache or by the caller: pass attention_mask "
            "[batch, length]"
        )
    if _is_cross(module) and mask.window != CAUSAL:
        return "its keys are of another sequence than its queries"
    if position_bias is not None and not _is_relative(module, position_bias):
        return "a bias is added to its scores that may be more than one by distance"
    if query.dtype != key.dtype or key.shape != value.shape or key.dtype != value.dtype:
        return "its query, key and value differ in dtype or head_dim"
    if query.shape[2] != key.shape[2]:
        return _CACHED
    sizes = query.shape[1], key.shape[1], query.shape[3]
    scores = scaling, softcap, position_bias is not None
    if torch.compiler.is_compiling():
        call = _chosen(session, query, mask, *sizes, *scores)
    else:  # what one layer found is so for those that are like it
        like = query.dtype, sizes, scores
        call = mask.calls.get(like)
        if call is None:
            call = mask.calls[like] = _chosen(session, query, mask, *sizes, *scores)
    if position_bias is None or not isinstance(call, _Call):
        return call
    return call._replace(bias=mask.bias(position_bias))


def _chosen(
    session: Session,
    query: Any,
    mask: Mask,
    heads: int,
    kv_heads: int,
    head_dim: int,
    scaling: float | None,
    softcap: float | None,
    has_bias: bool,
) -> _Call | str:
    """The call without its bias."""
    if not mask.is_square:
        return _CACHED
    window = mask.window
    if window is None:
        return "its mask is none of causal, of both directions, or a window of these"
    padding = mask.padding(session.look and not _cannot_look(query), session.padding)
    if padding is None:
        return (
            "its mask has holes, or padding on both sides: pass attention_mask of sequences that "
            "are padded on one side"
        )
    dtype = str(query.dtype).removeprefix("torch.")
    scale = head_dim**-0.5 if scaling is None else _constant(scaling)
    cap = None if softcap is None else _constant(softcap)
    bias = "relative" if has_bias else None
    wanted = None
    for side, seen in _names(padding, window, query.shape[2]):
        name = mask_name(None, side, seen)
        lens = padding.lens
        if side == LEFT and padding.side == RIGHT:
            lens = torch.full_like(lens, query.shape[2])
        for its, factor in _scales(scale, head_dim):
            for lse_dtype in dict.fromkeys((dtype, "float32")):
                fields = (name, heads, kv_heads, head_dim, dtype, its, lse_dtype, cap, bias)
                wanted = wanted or fields
                if _has_kernel(query.device.type, *fields):
                    lse = None if lse_dtype == dtype else torch.float32
                    spec, guard = str(Spec(*fields)), padding.guard
                    return _Call(spec, name, its, factor, cap, lse, lens, guard, None)
    kind = "cuda" if query.device.type == "cuda" else "llvm"
    spec = Spec(*wanted)  # pyright: ignore[reportOptionalIterable]
    return f"no kernel is loaded for {spec}: {spec.command('build', kind)}, and pass its folder"


def _names(padding: Padding, window: Window, length: Any) -> Iterator[tuple[str, Window]]:
    """Sides and windows of kernels that compute a call, the ones that fit it best before others."""
    sides = (RIGHT, LEFT) if padding.side == FULL else (padding.side,)
    windows = [window]
    if not torch.compiler.is_compiling():  # where a length may be any
        left, right = (end if end is not None and end < length - 1 else None for end in window)
        windows.append((left, right))
    for seen in dict.fromkeys(windows):
        for side in sides:
            yield side, seen
        if padding.side == RIGHT and seen[1] == 0:
            # What padding on the right holds comes after all that a row sees: it can be computed
            # as if it were none.
            yield LEFT, seen


def _scales(scale: float, head_dim: int) -> list[tuple[float, float]]:
    """Scales of kernels that compute a call, each with a factor on the query.

    Whisper multiplies its query by the usual scale itself. Where that can be undone without
    rounding, a kernel of that scale does.
    """
    usual = head_dim**-0.5
    factor = scale / usual
    exact = math.frexp(factor)[0] == 0.5
    return [(scale, 1.0)] + ([(usual, factor)] if exact and factor != 1 else [])


def _served(session: Session, call: _Call, mask: Mask, query: Any, key: Any, value: Any) -> Any:
    if call.factor != 1:
        query = query * call.factor
    dense = []
    for name, each in (("query", query), ("key", key), ("value", value)):
        tensor = each.transpose(1, 2)
        if not tensor.is_contiguous():
            _count(session, "copied", name)
            tensor = tensor.contiguous()
        dense.append(tensor)
    _count(session, "served", call.spec)
    output, _ = sequence_prefill(
        *dense,
        call.lens,
        sm_scale=call.sm_scale,
        mask_mode=call.mask_mode,
        softcap=call.softcap,
        bias=call.bias,
        lse_dtype=call.lse_dtype,
    )
    if call.guard is not None and not mask.guarded:
        # In one layer: what is NaN there is NaN in all that come after.
        mask.guarded = True
        output = output + call.guard.to(output.dtype)[:, None, None, None]
    return output


def _addends(mask: Any, dtype: Any) -> Any:
    if isinstance(mask, Mask):
        return mask.addends(dtype)
    if mask.dtype == torch.bool:
        return torch.where(mask, 0.0, torch.finfo(dtype).min).to(dtype)
    return mask


def _constant(number: float) -> float:
    """The number as one that is the same in every call of a compiled graph.

    torch.compile may take it for one that differs, of which it can ask nothing; of its numerator
    it knows that it is this one, and compiles anew for another.
    """
    numerator, denominator = number.as_integer_ratio()
    return numerator / denominator


def _is_cross(module: Any) -> bool:
    """Whether keys may be of another sequence, whose lengths say nothing of the queries.

    Nothing says it: a layer of a decoder does that is told to be one, or its class.
    """
    return (
        "Cross" in type(module).__name__
        or bool(getattr(module, "is_decoder", False))
        or bool(getattr(getattr(module, "config", None), "is_decoder", False))
    )


def _is_relative(module: Any, position_bias: Any) -> bool:
    """Whether a bias is that of T5, the same for every sequence and pair of one distance."""
    return hasattr(module, "relative_attention_num_buckets") and position_bias.shape[0] == 1


def _cannot_look(query: Any) -> bool:
    """Whether what is in tensors cannot be waited for."""
    if torch.compiler.is_compiling():
        return True
    return query.is_cuda and torch.cuda.is_current_stream_capturing()


@torch.compiler.assume_constant_result
def _has_kernel(device: str, *fields: Any) -> bool:
    return has_kernel(device, Spec(*fields))


def _count(session: Session, list_name: str, what: str) -> None:
    if torch.compiler.is_compiling():
        count_compiled(session.number, list_name, what)
    elif list_name == "handed_over":
        session.report.hand_over(what)
    else:
        getattr(session.report, list_name)[what] += 1
