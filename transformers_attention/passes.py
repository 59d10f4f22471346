"""A forward pass of packed sequences waits for nothing.

Given no mask, transformers looks into ``position_ids`` for sequences that lie one behind another in
a row, and waits for a GPU to say whether there are any. With their offsets this is known already,
and a mask that keeps every position ends the search.
"""

from __future__ import annotations

from typing import Any

import torch

from .attention import NAME
from .masks import mask_of_all
from .packed import packing_of

_TOLD = "_prefilltune_waits_for_nothing"


def let_nothing_wait(model: Any) -> None:
    """Tell a causal model's passes of packed sequences that there is no padding."""
    if not hasattr(model, _TOLD):
        setattr(model, _TOLD, True)
        model.register_forward_pre_hook(_told, with_kwargs=True)


def _told(model: Any, inputs: tuple[Any, ...], said: dict[str, Any]) -> Any:
    """What ``forward`` is given in the place of this; None as it is."""
    is_ours = model.config._attn_implementation == NAME
    others = ("attention_mask", "past_key_values", "cache")
    if torch.compiler.is_compiling() or not is_ours or len(inputs) > 1 or packing_of(said) is None:
        return None
    given = [*inputs, said.get("input_ids"), said.get("inputs_embeds")]
    tokens = next((each for each in given if each is not None), None)
    if tokens is None or any(said.get(name) is not None for name in others):
        return None
    batch, length = tokens.shape[:2]
    return inputs, {**said, "attention_mask": mask_of_all(batch, length, tokens.device)}
