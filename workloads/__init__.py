"""What is computed: specs, shapes, lengths, presets, the reference and the TIR descriptions."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .arrays import Inputs, make_inputs, numpy_dtype, poisoned, useful_flops
from .baseline import TVM_MASK_MODES, masked_baseline, ragged_cpu_baseline
from .biases import alibi_bias, t5_bias
from .case import Case
from .choices import CHOICES, Choice
from .errors import (
    InvalidLengthsError,
    InvalidShapeError,
    InvalidSpecError,
    PrefilltuneError,
    UnknownPresetError,
)
from .lengths import LengthDistribution, check_batches, parse_lengths, regimes
from .lse import empty_lse
from .presets import Preset, load_presets, preset
from .reference import (
    TOLERANCE,
    max_error,
    reference_attention,
    reference_packed_attention,
)
from .spec import (
    DTYPES,
    INDEXABLE,
    MASK_MODES,
    PackedShape,
    PrefillShape,
    PrefillSpec,
    SymbolicShape,
)
from .tiles import Tiles

if TYPE_CHECKING:
    from .plain import plain_attention

__all__ = [
    "CHOICES",
    "DTYPES",
    "INDEXABLE",
    "MASK_MODES",
    "TOLERANCE",
    "TVM_MASK_MODES",
    "Case",
    "Choice",
    "Inputs",
    "InvalidLengthsError",
    "InvalidShapeError",
    "InvalidSpecError",
    "LengthDistribution",
    "PackedShape",
    "PrefillShape",
    "PrefillSpec",
    "PrefilltuneError",
    "Preset",
    "SymbolicShape",
    "Tiles",
    "UnknownPresetError",
    "alibi_bias",
    "check_batches",
    "empty_lse",
    "load_presets",
    "make_inputs",
    "masked_baseline",
    "max_error",
    "numpy_dtype",
    "parse_lengths",
    "plain_attention",
    "poisoned",
    "preset",
    "ragged_cpu_baseline",
    "reference_attention",
    "reference_packed_attention",
    "regimes",
    "t5_bias",
    "useful_flops",
]

# Importing tvm takes three seconds, and `--help`, presets and errors need none of it: what is
# written in TIR is imported when it is first asked for.
_IN_TIR = {
    "plain_attention": ".plain",
}

if not TYPE_CHECKING:  # a type checker would take every misspelt name for one from here

    def __getattr__(name: str) -> object:
        if name not in _IN_TIR:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_IN_TIR[name], __name__), name)
