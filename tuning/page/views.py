"""What the first screen says of each choice of dtype, lengths and model."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from ...workloads import PrefillSpec, Preset, load_presets
from ..comparing.chart import bar_rows, limit_text
from ..comparing.comparison import Comparison
from ..comparing.report import attention_title
from ..comparing.standing import Standing, times
from ..comparing.summary import FULL, MIXED, lengths_of

#: Stands for any dtype, lengths or model.
ALL = "all"


def views(cases: Sequence[Comparison]) -> dict[str, dict[str, Any]]:
    """Of one device's cases, by ``dtype|lengths|model``; those alone that leave a case."""
    labelled = [(each, *labels(each)) for each in cases]
    choices = [dict.fromkeys([ALL, *(own[at] for _, *own in labelled)]) for at in range(3)]
    found = {}
    for chosen in itertools.product(*choices):
        left = [
            each
            for each, *own in labelled
            if all(choice in (ALL, label) for choice, label in zip(chosen, own, strict=True))
        ]
        if left:
            found["|".join(chosen)] = _view(left)
    return found


def labels(comparison: Comparison) -> tuple[str, str, str]:
    """What the switches choose by: dtype, lengths and model."""
    spec = PrefillSpec.parse(comparison.spec)
    return spec.dtype, lengths_of(comparison), attention_title(spec)


def options(cases: Sequence[Comparison]) -> dict[str, dict[str, str]]:
    """The switches and what each may stand at: what it is called, by the value of its label."""
    found = [labels(each) for each in cases]
    dtypes = sorted({dtype for dtype, _, _ in found})
    attentions = sorted({attention for _, _, attention in found})
    specs = [PrefillSpec.parse(each.spec) for each in cases]
    presets = [part for whole in load_presets().values() for part in whole.apart()]
    known = {attention_title(each): ", ".join(_names(presets, each)) for each in specs}
    return {
        "lengths": {ALL: "all", FULL: "full", MIXED: "mixed"},
        "dtype": {ALL: "all", **{each: each for each in dtypes}},
        "model": {
            ALL: "all models",
            **{each: f"{each}: {known[each]}" if known[each] else each for each in attentions},
        },
    }


def _names(presets: Sequence[Preset], spec: PrefillSpec) -> Iterator[str]:
    """Those of models, an attention each, that have this attention in whatever dtype."""
    for each in presets:
        if dataclasses.replace(each.spec(), dtype=spec.dtype) == spec:
            yield each.name


def _view(cases: Sequence[Comparison]) -> dict[str, Any]:
    standing = Standing.of(cases)
    figures = [
        [title, times(over.mean), f"{over.least:.3g} to {over.most:.3g}", over.cases]
        for title, over in standing.figures()
    ]
    share = standing.share
    span = f"{share.least:.0%} to {share.most:.0%}"
    figures.append(["The chip's limit", f"{share.mean:.0%} of it", span, share.cases])
    return {
        "sentence": standing.sentence(),
        "strongest": ", ".join(f"{name} in {count}" for name, count in standing.strongest.items()),
        "limit": limit_text(cases),
        "bars": bar_rows(cases),
        "figures": figures,
    }
