"""What is computed: :class:`PrefillSpec`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from .choices import (
    CAUSAL,
    CHOICES,
    MASK_CHOICES,
    OPEN,
    PADDING,
    PADDING_OUTPUT,
    PADDING_OUTPUTS,
    RESULT_CHOICES,
    SCORE_CHOICES,
    WINDOW,
    Window,
    parsed_choices,
)
from .errors import InvalidSpecError
from .shapes import PackedShape, PrefillShape, SymbolicShape, require_positive

_PADDED = {"right": "padded", "left": "padded_left"}
_PACKED = "packed"

#: Names of masks: those that are causal or see all, padded to the one side or the other.
MASK_MODES = (*_PADDED.values(), *(f"causal_{padded}" for padded in _PADDED.values()))

DTYPES = ("float16", "bfloat16", "float32")

#: What an LSE may be besides the dtype of what it is of.
LSE_DTYPE = "float32"

# A scale this near to the usual one, as a share, is it.
_ROUNDING = 1e-6

#: What the canonical text of a spec says behind the scale, in this order.
_BEHIND_SCALE = (*SCORE_CHOICES, *RESULT_CHOICES)


@dataclass(frozen=True, init=False)
class PrefillSpec:
    """The meaning of one masked batch prefill attention; with a :class:`PrefillShape`, a workload.

    Parameters
    ----------
    num_qo_heads : int
        Heads of the query and of the output.
    num_kv_heads : int
        Heads of the key and of the value; divides ``num_qo_heads``. Query head ``h`` reads
        key/value head ``h // group_size``.
    head_dim : int
        Elements a head.
    dtype : str
        Of query, key, value and output: one of :data:`DTYPES`. Sums are always float32.
    mask_mode : str, optional
        A name for padding and window, instead of these: ``padded`` (right, open; meant when
        absent), ``padded_left`` (left, open), ``causal_padded`` (right, causal) or
        ``causal_padded_left`` (left, causal); a window behind it, as in ``padded_w64-64``.
    sm_scale : float, optional
        Factor on query times key; ``1 / sqrt(head_dim)`` when absent, and where it differs from
        that by rounding alone, as ``head_dim**-0.5`` does, or what was a float32.
    lse_dtype : str, optional
        Of the LSE: ``dtype``, which is meant when absent (and None is what it becomes), or
        ``float32``. Parts that are merged want the latter: 16 bits are off by 4e-3 (float16) or
        3e-2 (bfloat16) for an LSE about 8.
    layout : str
        ``padded``: sequences are filled to the length of the longest. ``packed``: they lie one
        behind another, and offsets say where each begins; rows and columns are then those of a
        sequence.
    padding : str
        ``right`` or ``left``: the end at which a sequence that is shorter than the batch is filled.
    window : tuple of (int or None)
        How many columns a row sees to its left and to its right, besides its own; None for all.
        ``(None, 0)`` is causal. The own column of the last valid row is the last valid column.
    softcap : float, optional
        A scaled score ``x`` becomes ``softcap * tanh(x / softcap)``.
    bias : str, optional
        ``relative``: a float32 tensor ``[num_qo_heads, qo_len + kv_len - 1]``, whose entry
        ``column - row + qo_len - 1`` is added to the scaled and capped score. Of a packed spec
        ``[num_qo_heads, width]``: see :func:`~prefilltune.workloads.plain_attention`.
    padding_output : str
        What padding of output and LSE becomes: ``zero`` (0, and the LSE of a row that sees no
        key), or ``untouched``: nothing is written there, and what memory held stays. A row that
        is no padding is always written, even if it sees no key.

    Raises
    ------
    InvalidSpecError
        For a field out of its range, a ``mask_mode`` besides a padding or a window, or a padding of
        a packed spec, which has none.

    Examples
    --------
    >>> str(PrefillSpec(12, 12, 64, "float32"))
    'padded_hq12_hkv12_d64_float32_s0.125'
    >>> PrefillSpec.parse('padded_hq12_hkv12_d64_float32_s0.125').group_size
    1
    >>> str(PrefillSpec(12, 12, 64, "float16", lse_dtype="float32"))
    'padded_hq12_hkv12_d64_float16_s0.125_lsefloat32'
    >>> str(PrefillSpec(12, 12, 64, window=(64, 64), softcap=50, bias="relative"))
    'padded_w64-64_hq12_hkv12_d64_float16_s0.125_cap50.0_biasrelative'
    >>> str(PrefillSpec(12, 12, 64, padding_output="untouched"))
    'padded_hq12_hkv12_d64_float16_s0.125_outuntouched'
    >>> PrefillSpec(12, 12, 64, padding="left", window=(None, 0)).mask_mode
    'causal_padded_left'
    >>> str(PrefillSpec(12, 12, 64, layout="packed", window=(None, 0)))
    'causal_packed_hq12_hkv12_d64_float16_s0.125'
    """

    num_qo_heads: int
    num_kv_heads: int
    head_dim: int
    dtype: str
    layout: str
    padding: str
    window: Window
    sm_scale: float | None
    softcap: float | None
    bias: str | None
    padding_output: str
    lse_dtype: str | None

    def __init__(
        self,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: str = "float16",
        mask_mode: str | None = None,
        sm_scale: float | None = None,
        lse_dtype: str | None = None,
        *,
        layout: str | None = None,
        padding: str | None = None,
        window: Sequence[int | None] | None = None,
        softcap: float | None = None,
        bias: str | None = None,
        padding_output: str | None = None,
    ) -> None:
        heads = {"num_qo_heads": num_qo_heads, "num_kv_heads": num_kv_heads, "head_dim": head_dim}
        for field, size in heads.items():
            require_positive(size, field, InvalidSpecError)
        if num_qo_heads % num_kv_heads:
            raise InvalidSpecError(
                f"num_kv_heads {num_kv_heads} does not divide num_qo_heads {num_qo_heads}: every "
                "key/value head serves a whole group of query heads; choose a divisor"
            )
        if dtype not in DTYPES:
            raise InvalidSpecError(f"dtype {dtype!r} is unknown; choose {', '.join(DTYPES)}")
        usual = 1.0 / math.sqrt(head_dim)
        scale = usual if sm_scale is None else float(sm_scale)
        scale = usual if math.isclose(scale, usual, rel_tol=_ROUNDING) else scale
        if not (math.isfinite(scale) and scale > 0):
            raise InvalidSpecError(f"sm_scale is {scale}; it must be finite and above 0")
        if lse_dtype not in (None, dtype, LSE_DTYPE):
            allowed = " or ".join(dict.fromkeys((dtype, LSE_DTYPE)))
            raise InvalidSpecError(
                f"the LSE of {dtype} attention cannot be {lse_dtype!r}; choose {allowed}"
            )
        chosen = {
            "layout": layout,
            "padding": padding,
            "window": window,
            "softcap": softcap,
            "bias": bias,
            "padding_output": padding_output,
        }
        given = {name: value for name, value in chosen.items() if value is not None}
        if mask_mode is not None:
            given = _beside(given, mask_mode)
        fields = {
            **heads,
            "dtype": dtype,
            "sm_scale": scale,
            "lse_dtype": None if lse_dtype == dtype else lse_dtype,
            **{each.name: each.checked(given.get(each.name, each.default)) for each in CHOICES},
        }
        for each in (PADDING, PADDING_OUTPUT) if fields["layout"] == _PACKED else ():
            if fields[each.name] != each.default:
                raise InvalidSpecError(
                    f"{each.name} is {fields[each.name]!r} of a packed layout, where sequences "
                    "have no padding: leave it out"
                )
        for field, value in fields.items():
            object.__setattr__(self, field, value)

    @property
    def mask_mode(self) -> str:
        """The name of the mask: of padding, window and whatever else says which pairs are seen."""
        causal = self.window == CAUSAL
        others = (each for each in MASK_CHOICES if not (causal and each is WINDOW))
        laid_out = _PACKED if self.is_packed else _PADDED[self.padding]
        name = ("causal_" if causal else "") + laid_out
        return name + "".join(each.suffix(getattr(self, each.name)) for each in others)

    @property
    def is_packed(self) -> bool:
        """Whether sequences lie one behind another."""
        return self.layout == _PACKED

    @property
    def scale(self) -> float:
        """``sm_scale``, resolved."""
        assert self.sm_scale is not None
        return self.sm_scale

    @property
    def lse_type(self) -> str:
        """``lse_dtype``, resolved."""
        return self.dtype if self.lse_dtype is None else self.lse_dtype

    @property
    def same_kernels(self) -> tuple[PrefillSpec, ...]:
        """This spec, and those whose records serve it, the nearest first.

        Kernels differ in nothing but the dtype of the LSE, in whether padding is written, and in
        where sequences lie: what was tuned for padded tensors is good for packed ones.
        """
        lses = dict.fromkeys((self.lse_dtype, None, LSE_DTYPE))
        if self.is_packed:
            sides = (replace(self.padded, padding=side) for side in ("right", "left"))
            others = (each for side in sides for each in side.same_kernels)
            return (*dict.fromkeys(replace(self, lse_dtype=lse) for lse in lses), *others)
        alike = (
            replace(self, padding_output=output, lse_dtype=lse)
            for output in dict.fromkeys((self.padding_output, *PADDING_OUTPUTS))
            for lse in lses
        )
        return tuple(dict.fromkeys(alike))

    def in_dtype(self, dtype: str) -> PrefillSpec:
        """The same attention of tensors of another dtype.

        An LSE that is of the dtype of the tensors stays so.

        Raises
        ------
        InvalidSpecError
            If ``dtype`` is unknown.

        Examples
        --------
        >>> str(PrefillSpec(12, 12, 64, "bfloat16").in_dtype("float16"))
        'padded_hq12_hkv12_d64_float16_s0.125'
        """
        lse_dtype = self.lse_dtype if self.lse_dtype == LSE_DTYPE else None
        return replace(self, dtype=dtype, lse_dtype=lse_dtype)

    def as_called(
        self, *, layout: str | None = None, padding_output: str | None = None
    ) -> PrefillSpec:
        """The same attention as a caller wants it who lays out its tensors so; None is as it is.

        Which side a model's padding is on says nothing of packed sequences.

        Raises
        ------
        InvalidSpecError
            If no spec has such fields.

        Examples
        --------
        >>> decoder = PrefillSpec(16, 8, 128, mask_mode="causal_padded_left")
        >>> decoder.as_called(layout="packed").mask_mode
        'causal_packed'
        """
        chosen = {"layout": layout, "padding_output": padding_output}
        given = {name: value for name, value in chosen.items() if value is not None}
        if layout == _PACKED:
            given["padding"] = PADDING.default
        return replace(self, **given)

    @property
    def padded(self) -> PrefillSpec:
        """What computes the same rows of padded sequences: of a packed spec; else this one."""
        if not self.is_packed:
            return self
        return self.as_called(layout="padded", padding_output="untouched")

    def within(self, shape: PrefillShape | SymbolicShape | PackedShape) -> PrefillSpec:
        """What this attention amounts to in a shape: ends of its window that hide nothing are open.

        Two specs that differ in their windows alone keep the same pairs of a shape, whatever the
        lengths of its sequences, if and only if this is the same of both.

        Sizes that a kernel learns at a call may be any, and so may the lengths of packed sequences:
        there it is this spec itself.

        Examples
        --------
        >>> mistral = PrefillSpec(32, 8, 128, padding="left", window=(4095, 0))
        >>> mistral.within(PrefillShape(2, 4096)).mask_mode
        'causal_padded_left'
        >>> mistral.within(PrefillShape(2, 4097)).mask_mode
        'padded_left_w4095-0'
        """
        left, right = self.window
        qo_len, kv_len = shape.qo_len, shape.num_kv
        if self.is_packed or not (isinstance(qo_len, int) and isinstance(kv_len, int)):
            return self
        # Windows are aligned at the ends. The last row's own column is the last, which has
        # kv_len - 1 to its left, the most of any row; the first row's has qo_len - 1 to its right.
        left = None if left is not None and left >= kv_len - 1 else left
        right = None if right is not None and right >= qo_len - 1 else right
        return replace(self, window=(left, right))

    @property
    def group_size(self) -> int:
        """Query heads that share one key/value head."""
        return self.num_qo_heads // self.num_kv_heads

    def __str__(self) -> str:
        return (
            f"{self.mask_mode}_hq{self.num_qo_heads}_hkv{self.num_kv_heads}"
            f"_d{self.head_dim}_{self.dtype}_s{self.scale!r}"
            f"{''.join(each.suffix(getattr(self, each.name)) for each in _BEHIND_SCALE)}"
            f"{'' if self.lse_dtype is None else f'_lse{self.lse_dtype}'}"
        )

    @classmethod
    def known(cls, text: str) -> PrefillSpec | None:
        """The spec of a text; None of one that only another version has.

        Examples
        --------
        >>> PrefillSpec.known("padded_hq12_hkv12_d64_float32_s0.125_sparse7")
        """
        try:
            return cls.parse(text)
        except InvalidSpecError:
            return None

    @classmethod
    def parse(cls, text: str) -> PrefillSpec:
        """Invert ``str(spec)``.

        Raises
        ------
        InvalidSpecError
            If ``text`` is not the canonical text of a spec.
        """
        found = re.fullmatch(
            r"(?P<mask_mode>.+)_hq(?P<qo>\d+)_hkv(?P<kv>\d+)_d(?P<d>\d+)"
            r"_(?P<dtype>[a-z]+\d+)_s(?P<scale>[-+.\de]+)"
            rf"{''.join(each.pattern for each in _BEHIND_SCALE)}(?:_lse(?P<lse>[a-z]+\d+))?",
            text,
        )
        if found is None:
            raise InvalidSpecError(
                f"{text!r} is not a spec; write it like 'padded_hq12_hkv12_d64_float32_s0.125'"
            )
        try:
            scale = float(found["scale"])
        except ValueError:
            raise InvalidSpecError(f"{text!r}: {found['scale']!r} is not a number") from None
        return cls(
            int(found["qo"]), int(found["kv"]), int(found["d"]),
            found["dtype"], found["mask_mode"], scale, found["lse"],
            **parsed_choices({each.name: found[each.name] for each in _BEHIND_SCALE}),
        )  # fmt: skip


def _beside(given: dict[str, Any], mask_mode: str) -> dict[str, Any]:
    """``given`` choices and those that ``mask_mode`` stands for, which must not be the same."""
    named = parse_mask_mode(mask_mode)
    for name in named:
        if name in given:
            raise InvalidSpecError(
                f"mask_mode {mask_mode!r} says the {name}, and {name} {given[name]!r} is given "
                "besides: give either; a name may hold a window, as padded_w64-64 does"
            )
    return {**given, **named}


def parse_mask_mode(text: str) -> dict[str, Any]:
    """The choices that a name of a mask stands for.

    Raises
    ------
    InvalidSpecError
        If it is none.

    Examples
    --------
    >>> parse_mask_mode("causal_padded_left")
    {'layout': 'padded', 'padding': 'left', 'window': (None, 0)}
    >>> parse_mask_mode("padded_w64-64")
    {'layout': 'padded', 'padding': 'right', 'window': (64, 64)}
    >>> parse_mask_mode("causal_packed")
    {'layout': 'packed', 'window': (None, 0)}
    """
    patterns = "".join(each.pattern for each in MASK_CHOICES)
    found = re.fullmatch(
        rf"(?P<causal>causal_)?(?:padded(?P<left>_left)?|(?P<packed>packed)){patterns}", text
    )
    if found is None or (found["causal"] and found["window"]):
        raise InvalidSpecError(
            f"mask mode {text!r} is unknown; choose {', '.join(MASK_MODES)}, or a padding and a "
            "window"
        )
    chosen = parsed_choices({each.name: found[each.name] for each in MASK_CHOICES})
    window = CAUSAL if found["causal"] else chosen.pop("window", OPEN)
    padding = "left" if found["left"] else "right"
    laid_out = {"layout": _PACKED} if found["packed"] else {"layout": "padded", "padding": padding}
    return {**laid_out, "window": window, **chosen}
