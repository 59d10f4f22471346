"""What a spec chooses, in words: for titles, and for what computes some choices and not others."""

from __future__ import annotations

import math
from collections.abc import Iterable

from .choices import CAUSAL, CHOICES, LAYOUT, PADDING, WINDOW
from .shapes import PrefillShape
from .spec import PrefillSpec


def extras(spec: PrefillSpec) -> dict[str, str]:
    """What a spec chooses beyond padding and causality: by name, as options write it.

    Examples
    --------
    >>> extras(PrefillSpec(12, 12, 64, window=(64, 64), softcap=50))
    {'window': '64,64', 'softcap': '50'}
    >>> extras(PrefillSpec(12, 12, 64, mask_mode="causal_padded_left"))
    {}
    """
    values = {each: getattr(spec, each.name) for each in CHOICES if each is not PADDING}
    return {
        each.name: each.write(value).removesuffix(".0")
        for each, value in values.items()
        if value != each.default and not (each is WINDOW and value == CAUSAL)
    }


def phrase(spec: PrefillSpec, *, short: bool = False) -> str:
    """What is seen and what becomes of scores; head counts, dtypes and usual scales aside.

    Parameters
    ----------
    short : bool
        Leave out what goes without saying: ``padded`` (on the right, seeing all), and that what is
        causal is padded on the left.

    Examples
    --------
    >>> phrase(PrefillSpec(12, 12, 64, window=(64, 64), softcap=50, bias="relative"))
    'padded, window 64,64, softcap 50, bias relative'
    >>> phrase(PrefillSpec(12, 12, 64, mask_mode="causal_padded_left"))
    'causal padded left'
    >>> phrase(PrefillSpec(12, 12, 64, mask_mode="causal_padded_left"), short=True)
    'causal'
    >>> phrase(PrefillSpec(12, 12, 64, layout="packed", window=(None, 0)), short=True)
    'causal packed'
    >>> phrase(PrefillSpec(12, 12, 64), short=True)
    ''
    """
    left = " left" if spec.padding == "left" else ""
    mask = ("causal " if spec.window == CAUSAL else "") + f"{spec.layout}{left}"
    if short:
        mask = {"padded": "", "causal padded left": "causal"}.get(mask, mask)
    scores = [f"{name} {text}" for name, text in extras(spec).items() if name != LAYOUT.name]
    if not math.isclose(spec.scale, spec.head_dim**-0.5):
        scores.append(f"scale {spec.scale:g}")
    return ", ".join(each for each in (mask, *scores) if each)


def hides_nothing(spec: PrefillSpec, shapes: Iterable[PrefillShape]) -> str:
    """That a window hides nothing in shapes.

    Examples
    --------
    >>> hides_nothing(PrefillSpec(12, 12, 64, window=(64, 64)), [PrefillShape(1, 65)])
    'padded_w64-64_hq12_hkv12_d64_float16_s0.125: its window hides nothing at b1_q65_kv65'
    """
    return f"{spec}: its window hides nothing at {', '.join(map(str, shapes))}"


def tuned_as(spec: PrefillSpec, shapes: Iterable[PrefillShape]) -> list[str]:
    """What a spec is tuned as in those shapes where that is another, a line each.

    Examples
    --------
    >>> shapes = [PrefillShape(1, 65), PrefillShape(1, 66)]
    >>> tuned_as(PrefillSpec(12, 12, 64, window=(64, None)), shapes)  # doctest: +ELLIPSIS
    ['...: its window hides nothing at b1_q65_kv65, tuned as padded_hq12_hkv12_d64_float16_s0.125']
    """
    found: dict[PrefillSpec, list[PrefillShape]] = {}
    for shape in shapes:
        found.setdefault(spec.within(shape), []).append(shape)
    found.pop(spec, None)
    return [f"{hides_nothing(spec, each)}, tuned as {within}" for within, each in found.items()]
