"""The attention function: a kernel serves a layer's call, or something else does and it is told."""

from __future__ import annotations

import sys
from typing import Any

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from .calls import CACHED, Scores, count
from .errors import NotServedError
from .masks import Mask, mask_of_none
from .packed import Packed, packed_window, packing_of
from .padded import Padded
from .session import session_of
from .windows import CAUSAL

#: The name by which models are told to use it.
NAME = "prefilltune"

#: What changes scores in ways that no kernel knows, nor SDPA.
_BEYOND_SDPA = ("s_aux", "sinks")


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
    **more
        Where ``cu_seq_lens_q`` and ``cu_seq_lens_k`` are given, sequences lie one behind another.

    Returns
    -------
    tuple[torch.Tensor, None]
        ``[batch, length, heads, head_dim]``, and no weights. Rows of padding hold zeros, or what
        they see.

    Raises
    ------
    NotServedError
        If no kernel serves the call and the model was enabled with ``strict``; for packed sequences
        of which more is said than where they begin.
    """
    session = session_of(module)
    packing = packing_of(more)
    mask = attention_mask
    if mask is None:
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        window = None if packing is None else more.get("sliding_window")
        mask = mask_of_none(query, key, causal and query.shape[2] > 1, window)
    beside = _beside_lengths(module, mask, position_bias)
    if packing is None:
        layout = Padded(session, mask, attention_mask, is_causal)
    else:
        layout = Packed(session, packing, mask, packed_window(mask, query, key, beside))
    beyond = [name for name in _BEYOND_SDPA if more.get(name) is not None]
    scores = Scores(scaling, softcap, position_bias is not None)
    if beyond:
        call = f"{beyond[0]} changes its scores, which no kernel knows"
    elif dropout:
        call = "it drops out weights, as in training: call model.eval()"
    else:
        call = beside or _call(layout, query, key, value, scores)
    if not isinstance(call, str):
        bias = None if position_bias is None else mask.bias(position_bias)
        return layout.output(call, query, key, value, bias), None
    if session.strict:
        raise NotServedError(
            f"{type(module).__name__} is not served by a kernel: {call}; or enable the model "
            "without strict, and SDPA serves it"
        )
    count(session, "handed_over", call)
    more |= {"scaling": scaling, "dropout": dropout}
    if softcap is None and not beyond:
        compute, adds = sdpa_attention_forward, False
    else:  # SDPA would leave out what it does not know; the model's own function does not
        compute = sys.modules[type(module).__module__].eager_attention_forward  # pyright: ignore
        more["softcap"], adds = softcap, True

    def computed(*arguments: Any, **said: Any) -> Any:
        return compute(module, *arguments, **more, **said)[0]

    return layout.elsewhere(computed, adds, query, key, value, position_bias), None


def _beside_lengths(module: Any, mask: Any, position_bias: Any) -> str | None:
    """What says more of scores than lengths and a window do, and what can be done."""
    if not isinstance(mask, Mask):
        return (
            "its mask was made ahead, for a static cache or by the caller: pass attention_mask "
            "[batch, length]"
        )
    if _is_cross(module) and mask.packed_window != CAUSAL:
        return "its keys are of another sequence than its queries"
    if position_bias is not None and not _is_relative(module, position_bias):
        return "a bias is added to its scores that may be more than one by distance"
    return None


def _call(layout: Padded | Packed, query: Any, key: Any, value: Any, scores: Scores) -> Any:
    """The layout's call of a kernel, or as text why there is none and what can be done."""
    if torch.is_grad_enabled() and (
        query.requires_grad or key.requires_grad or value.requires_grad
    ):
        return "it needs a gradient, which kernels have none of: call it under inference_mode()"
    if query.dtype != key.dtype or key.dtype != value.dtype:
        return (
            "its query, key and value differ in dtype, as autocast makes them: convert the model "
            "with model.to(dtype), and call it without autocast"
        )
    if key.shape != value.shape:
        return "its key and value differ in head_dim"
    if query.shape[2] != key.shape[2]:
        return CACHED
    kv_heads = key.shape[1]
    if torch.compiler.is_compiling():
        return layout.call(query, kv_heads, scores)
    # What one layer found is so for those that are like it.
    like, calls = (query.dtype, query.shape[1::2], kv_heads, scores), layout.mask.calls
    call = calls.get(like)
    if call is None:
        call = calls[like] = layout.call(query, kv_heads, scores)
    return call


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
