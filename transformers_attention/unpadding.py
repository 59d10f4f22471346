"""Batches of sentence-transformers without padding.

It lays sequences one behind another for what it takes for FlashAttention: an attention whose name
says so, and of which transformers knows a function for packed sequences. Ours has one under another
name, and that is said here; what else a batch without padding takes, it sees to itself.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from transformers import modeling_flash_attention_utils as flash

from ..torch import varlen_attn
from .attention import NAME

#: Holds its class Transformer.
MODULE = "sentence_transformers.base.modules.transformer"
#: Its attribute: whether it unpads batches.
_FLATTENS = "can_flatten_inputs"


def let_unpad(module: ModuleType) -> None:
    """Let sentence-transformers unpad for models with this attention.

    A version that knows no batches without padding pads them, as before.
    """
    transformer = module.Transformer
    can_flatten = getattr(transformer, "_can_flatten_inputs", None)
    if can_flatten is None:
        return
    functions_of = flash.lazy_import_flash_attention

    def functions_or_ours(implementation: str | None, *more: Any, **said: Any) -> Any:
        if implementation == NAME:
            return (None, varlen_attn, None, None, None), (None, None)
        return functions_of(implementation, *more, **said)

    def can_flatten_or_ours(self: Any) -> bool:
        if not _is_ours(self):
            return can_flatten(self)
        # Of this question alone: elsewhere it asks whether masks with holes will do, which they do.
        self._is_flash_attention_requested = lambda: True
        try:
            return can_flatten(self)
        finally:
            del self._is_flash_attention_requested

    def flattens(self: Any) -> bool:
        # It looks when it is made; the attention may have been set since to one that takes padding.
        found = self.__dict__.get(_FLATTENS, False)
        return found and (_is_ours(self) or can_flatten(self))

    def set_flattens(self: Any, value: bool) -> None:
        self.__dict__[_FLATTENS] = value

    flash.lazy_import_flash_attention = functions_or_ours
    transformer._can_flatten_inputs = can_flatten_or_ours
    setattr(transformer, _FLATTENS, property(flattens, set_flattens))


def _is_ours(module: Any) -> bool:
    return getattr(module.config, "_attn_implementation", None) == NAME


def unpad(module: Any, model: Any, *, is_served: bool) -> None:
    """Let a module of sentence-transformers unpad the batches of a model, if kernels serve them."""
    for each in module.modules():
        if getattr(each, "model", None) is model and hasattr(each, "unpad_inputs"):
            if is_served:
                each.unpad_inputs = each.unpad_inputs  # it looks anew, unless it was told not to
            else:
                setattr(each, _FLATTENS, False)
