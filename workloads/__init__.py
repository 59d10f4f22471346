"""What is computed: specs, shapes, lengths, presets, the reference and the TIR descriptions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .baseline import TVM_MASK_MODES, masked_baseline, ragged_cpu_baseline
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
from .on_demand import on_demand
from .presets import Preset, load_presets, preset
from .shapes import PackedShape, PrefillShape, SymbolicShape
from .sizes import INDEXABLE
from .spec import DTYPES, MASK_MODES, PrefillSpec
from .tiles import Tiles

if TYPE_CHECKING:
    from .arrays import Inputs, make_inputs, numpy_dtype, poisoned, useful_flops
    from .biases import alibi_bias, t5_bias
    from .lse import empty_lse
    from .plain import plain_attention
    from .reference import (
        TOLERANCE,
        max_error,
        reference_attention,
        reference_packed_attention,
    )

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

if not TYPE_CHECKING:
    __getattr__ = on_demand(
        __name__,
        {
            "arrays": ("Inputs", "make_inputs", "numpy_dtype", "poisoned", "useful_flops"),
            "biases": ("alibi_bias", "t5_bias"),
            "lse": ("empty_lse",),
            "plain": ("plain_attention",),
            "reference": (
                "TOLERANCE",
                "max_error",
                "reference_attention",
                "reference_packed_attention",
            ),
        },
    )


def __dir__() -> list[str]:
    return __all__
