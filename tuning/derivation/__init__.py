"""The plain description made others, by passes over TIR that know nothing of attention."""

from .attention import online_attention, online_text
from .derive import derive_online
from .naming import Names
from .tiling import Tiling

__all__ = ["Names", "Tiling", "derive_online", "online_attention", "online_text"]
