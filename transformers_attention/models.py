"""What the attentions of a model are, read from its configuration."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

from ..torch import Spec
from ..torch.masks import mask_name, packed_mask_name
from .errors import UnsupportedModelError
from .windows import CAUSAL, OPEN, Window


def models_in(model: Any) -> list[Any]:
    """The models of transformers in a module, such as one of sentence-transformers, or itself.

    Raises
    ------
    UnsupportedModelError
        If there is none, or one takes no other attention function.
    """
    found: list[Any] = []
    for module in model.modules() if isinstance(model, torch.nn.Module) else ():
        inside = any(module in other.modules() for other in found)
        if isinstance(module, PreTrainedModel) and not inside:
            found.append(module)
    if not found:
        raise UnsupportedModelError(
            f"{type(model).__name__} holds no model of transformers: pass one, such as what "
            "AutoModel.from_pretrained returns"
        )
    for each in found:
        if not each._can_set_attn_implementation():
            raise UnsupportedModelError(
                f"{type(each).__name__} computes its attention by itself (it does not use "
                "transformers' AttentionInterface), so nothing else can: leave it as it is, or use "
                "a model that does"
            )
    return found


def specs_of(model: Any, dtype: str | None = None) -> list[list[Spec]]:
    """What the attentions of a model compute in prefill, one after the other.

    Parameters
    ----------
    model : PreTrainedModel
        Of an encoder-decoder, its encoder.
    dtype : str, optional
        Such as ``bfloat16``; the model's when absent.

    Returns
    -------
    list of list of Spec
        For each kind of attention that differs in more than padding: what it is with sequences
        padded on one side, and on the other, the usual side first.
    """
    config = _config(model)
    is_causal = _is_causal(model, config)
    sides = _sides(is_causal)
    make = _making(model, config, dtype)
    windows = _windows(config, is_causal)
    return [[make(mask_name(None, side, window)) for side in sides] for window in windows]


def packed_specs_of(model: Any, dtype: str | None = None) -> list[Spec]:
    """What they compute on packed sequences, in the order of :func:`specs_of`."""
    config = _config(model)
    make = _making(model, config, dtype)
    return [make(packed_mask_name(each)) for each in _windows(config, _is_causal(model, config))]


def _making(model: Any, config: Any, dtype: str | None) -> Callable[[str], Spec]:
    """What makes a spec of the model by the name of its mask."""
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head_dim = (
        getattr(config, "head_dim", None)
        or getattr(config, "d_kv", None)
        or config.hidden_size // heads
    )
    dtype = dtype or str(model.dtype).removeprefix("torch.")
    bias = None if getattr(config, "relative_attention_num_buckets", None) is None else "relative"
    scale = _scale(config, head_dim)
    softcap = getattr(config, "attn_logit_softcapping", None)
    return lambda name: Spec(name, heads, kv_heads, head_dim, dtype, scale, dtype, softcap, bias)


def usual_side(model: Any) -> str:
    """The side that its sequences are filled up on unless someone says: left in decoders."""
    return _sides(is_decoder(model))[0]


def is_decoder(model: Any) -> bool:
    """Whether its attentions are causal; of an encoder-decoder, those of the encoder."""
    return _is_causal(model, _config(model))


def _sides(is_causal: bool) -> tuple[str, str]:
    return ("left", "right") if is_causal else ("right", "left")


def _config(model: Any) -> Any:
    config = model.config
    return config.get_text_config(encoder=True) if hasattr(config, "get_text_config") else config


def _is_causal(model: Any, config: Any) -> bool:
    """Whether its attentions say so; of an encoder-decoder, those of the encoder."""
    if getattr(config, "is_encoder_decoder", False):
        return False
    said = [getattr(module, "is_causal", None) for module in model.modules()]
    return any(said) and getattr(config, "is_causal", True)


def _scale(config: Any, head_dim: int) -> float:
    if getattr(config, "relative_attention_num_buckets", None) is not None:
        return 1.0  # of T5, whose weights are initialised for it
    scalar = getattr(config, "query_pre_attn_scalar", None)  # of Gemma
    return 1 / math.sqrt(head_dim if scalar is None else scalar)


def _windows(config: Any, is_causal: bool) -> list[Window]:
    """Of its layers, each that there is once."""
    whole = CAUSAL if is_causal else OPEN
    size = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None) or (
        ["full_attention"] if size is None else ["sliding_attention"]
    )
    windows = []
    for each in dict.fromkeys(types):
        if each != "sliding_attention" or size is None:
            windows.append(whole)
        elif is_causal:
            windows.append((size - 1, 0))
        elif getattr(config, "use_bidirectional_attention", False):  # of Gemma
            windows.append((size - 1, size - 1))
        else:
            windows.append((size, size))
    return windows
