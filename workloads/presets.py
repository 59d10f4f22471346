"""The attentions of well-known models, by name; the numbers are in ``presets.toml``."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .choices import CHOICES
from .errors import UnknownPresetError
from .shapes import PrefillShape
from .spec import PrefillSpec

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_PRESETS_FILE = Path(__file__).parent / "presets.toml"


@dataclass(frozen=True)
class Preset:
    """One model's attentions and the shapes on which it is usually served.

    Parameters
    ----------
    name : str
        By which :func:`preset` finds it.
    description : str
        One line for a person who chooses.
    model : str
        The model on the Hugging Face hub whose configuration the numbers are from.
    attentions : Mapping[str, PrefillSpec]
        By their names, such as ``global`` and ``local``, in the dtype that the model is usually
        served in; one that is alone has the name ``""``.
    shapes : tuple[PrefillShape, ...]
        From small to large.
    """

    name: str
    description: str
    model: str
    attentions: Mapping[str, PrefillSpec]
    shapes: tuple[PrefillShape, ...]

    def specs(self, dtype: str | None = None) -> list[PrefillSpec]:
        """The spec of each attention, in ``dtype`` or else in the preset's own.

        Raises
        ------
        InvalidSpecError
            If ``dtype`` is unknown.
        """
        return [replace(each, dtype=dtype or each.dtype) for each in self.attentions.values()]

    def spec(self, dtype: str | None = None) -> PrefillSpec:
        """The first of :meth:`specs`, which is the only one of most models."""
        return self.specs(dtype)[0]

    def apart(self) -> list[Preset]:
        """A preset for each attention, whose name :func:`preset` takes too."""
        return [
            replace(self, name=f"{self.name}:{name}" if name else self.name, attentions={"": spec})
            for name, spec in self.attentions.items()
        ]


def load_presets() -> dict[str, Preset]:
    """Read all presets, by name, in the order of the file."""
    with _PRESETS_FILE.open("rb") as file:
        tables = tomllib.load(file)
    return {name: _preset(name, **fields) for name, fields in tables.items()}


def _preset(
    name: str,
    description: str,
    model: str,
    shapes: list[list[int]],
    attentions: Mapping[str, Mapping[str, Any]] | None = None,
    **common: Any,
) -> Preset:
    each_own = attentions or {"": {}}
    specs = {each: _spec({**common, **own}) for each, own in each_own.items()}
    return Preset(name, description, model, specs, tuple(PrefillShape(*each) for each in shapes))


def _spec(fields: Mapping[str, Any]) -> PrefillSpec:
    chosen = {each.name: each.of_file(fields[each.name]) for each in CHOICES if each.name in fields}
    return PrefillSpec(**{**fields, **chosen})


def preset(name: str) -> Preset:
    """The preset called ``name``: a model's, or with ``:`` and a name behind it, of one attention.

    Raises
    ------
    UnknownPresetError
        If there is none; the message names the nearest ones and lists all.

    Examples
    --------
    >>> [each.mask_mode for each in preset("modernbert-base").specs()]
    ['padded', 'padded_w64-64']
    >>> preset("modernbert-base:local").spec("float32").window
    (64, 64)
    """
    model, _, attention = name.partition(":")
    presets = load_presets()
    if model not in presets:
        near = difflib.get_close_matches(model.lower(), presets)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UnknownPresetError(
            f"preset {name!r} is unknown; {hint}choose one of {', '.join(presets)}"
        )
    if not attention:
        return presets[model]
    attentions = {each.name: each for each in presets[model].apart()}
    if name not in attentions:
        raise UnknownPresetError(
            f"{model} has no attention {attention!r}; choose {' or '.join(attentions)}"
        )
    return attentions[name]
