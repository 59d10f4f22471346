"""Tuned kernels in models of Hugging Face's transformers, by one line.

Importing it registers ``attn_implementation="prefilltune"``, for which sentence-transformers unpads
its batches; :func:`enable` loads what a model needs besides, and sets it.

>>> import prefilltune.transformers
>>> report = prefilltune.transformers.enable(model)  # doctest: +SKIP
"""

from transformers import AttentionInterface, AttentionMaskInterface

from .attention import NAME, attention
from .enabling import enable
from .errors import NotBuiltError, NotServedError, UnsupportedModelError
from .imports import when_imported
from .masks import make_mask
from .reporting import Report
from .session import report
from .unpadding import MODULE, let_unpad

AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, make_mask)
when_imported(MODULE, let_unpad)

__all__ = [
    "NAME",
    "NotBuiltError",
    "NotServedError",
    "Report",
    "UnsupportedModelError",
    "enable",
    "report",
]
