"""The attention of well-known models, by name; the numbers are in ``presets.toml``."""

from __future__ import annotations

import difflib
import sys
from dataclasses import dataclass
from pathlib import Path

from .errors import UnknownPresetError
from .spec import PrefillShape, PrefillSpec

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_PRESETS_FILE = Path(__file__).parent / "presets.toml"


@dataclass(frozen=True)
class Preset:
    """One model's attention and the shapes on which it is usually served.

    Parameters
    ----------
    name : str
        Its key in ``presets.toml``.
    description : str
        One line for a person who chooses.
    model : str
        The model on the Hugging Face hub whose configuration the numbers are from.
    num_qo_heads, num_kv_heads, head_dim, mask_mode, dtype, sm_scale
        As in :class:`~prefilltune.workloads.PrefillSpec`; ``dtype`` is the default of :meth:`spec`.
    shapes : tuple[PrefillShape, ...]
        From small to large.
    """

    name: str
    description: str
    model: str
    num_qo_heads: int
    num_kv_heads: int
    head_dim: int
    mask_mode: str
    shapes: tuple[PrefillShape, ...]
    dtype: str = "float16"
    sm_scale: float | None = None

    def spec(self, dtype: str | None = None) -> PrefillSpec:
        """The spec of the model's attention, in ``dtype`` or else in the preset's own.

        Raises
        ------
        InvalidSpecError
            If ``dtype`` is unknown.
        """
        return PrefillSpec(
            self.num_qo_heads,
            self.num_kv_heads,
            self.head_dim,
            self.dtype if dtype is None else dtype,
            self.mask_mode,
            self.sm_scale,
        )


def load_presets() -> dict[str, Preset]:
    """Read all presets, by name, in the order of the file."""
    with _PRESETS_FILE.open("rb") as file:
        tables = tomllib.load(file)
    return {
        name: Preset(
            name=name,
            **{**fields, "shapes": tuple(PrefillShape(*sizes) for sizes in fields["shapes"])},
        )
        for name, fields in tables.items()
    }


def preset(name: str) -> Preset:
    """The preset called ``name``.

    Raises
    ------
    UnknownPresetError
        If there is none; the message names the nearest ones and lists all.
    """
    presets = load_presets()
    if name not in presets:
        near = difflib.get_close_matches(name.lower(), presets)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UnknownPresetError(
            f"preset {name!r} is unknown; {hint}choose one of {', '.join(presets)}"
        )
    return presets[name]
