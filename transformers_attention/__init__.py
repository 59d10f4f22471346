"""Tuned kernels in models of Hugging Face's transformers, by one line.

Importing it registers ``attn_implementation="prefilltune"``; :func:`enable` loads what a model
needs besides, and sets it.

>>> import prefilltune.transformers
>>> report = prefilltune.transformers.enable(model)  # doctest: +SKIP
"""

from transformers import AttentionInterface, AttentionMaskInterface

from .attention import attention
from .enabling import NAME, enable
from .errors import NotBuiltError, NotServedError, UnsupportedModelError
from .masks import make_mask
from .reporting import Report
from .session import report

AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, make_mask)

__all__ = [
    "NotBuiltError",
    "NotServedError",
    "Report",
    "UnsupportedModelError",
    "enable",
    "report",
]
