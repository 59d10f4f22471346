"""What a caller can do wrong, each message ending in what to do about it."""

from __future__ import annotations

from ..torch.errors import PrefillError


class UnsupportedModelError(PrefillError, TypeError):
    """A model whose attentions cannot be replaced."""


class NotServedError(PrefillError, RuntimeError):
    """A call that no kernel serves, of a model that lets nothing else serve it."""


class NotBuiltError(PrefillError, RuntimeError):
    """A library that a model needs cannot be built here."""
