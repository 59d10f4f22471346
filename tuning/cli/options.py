"""Options that several commands take, and what they say."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ...database import Tier
from ...workloads import MASK_MODES, PrefillShape, PrefillSpec, parse_lengths, preset
from ..backends import USUAL_KIND, backend_of
from ..errors import InvalidOptionError
from ..heads import parse_heads

ShapeOption = Annotated[
    list[str] | None,
    typer.Option("--shape", metavar="BATCHxLEN", help="Repeat for more; or BATCHxQO_LENxKV_LEN."),
]
LensOption = Annotated[
    list[str] | None,
    typer.Option("--lens", help="Repeat for more; full and uniform when absent."),
]
DatabaseOption = Annotated[
    Path | None,
    typer.Option("--database", help="Folder of records; a work database when absent."),
]
DevicesOption = Annotated[
    str,
    typer.Option(
        "--devices",
        metavar="0,1,...",
        help="GPUs of this machine, by the numbers or names that CUDA_VISIBLE_DEVICES takes.",
    ),
]


@dataclass(frozen=True)
class WorkloadOptions:
    """Which attention a kernel is for: a model's, or heads by themselves."""

    model: Annotated[
        str, typer.Option("--model", help="A preset; `prefilltune presets` lists them.")
    ] = ""
    heads: Annotated[
        str,
        typer.Option(
            "--heads",
            metavar="QO[/KV]xDIM",
            help="Heads instead of a preset, such as 8x64 or 32/8x128.",
        ),
    ] = ""
    mask_mode: Annotated[
        str, typer.Option("--mask-mode", help=f"With --heads: {' or '.join(MASK_MODES)}.")
    ] = "padded"
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype",
            help="float32, float16 or bfloat16; float32 on llvm and float16 on cuda when absent.",
        ),
    ] = ""

    @property
    def are_given(self) -> bool:
        """Whether a model or heads are named."""
        return bool(self.model or self.heads)

    def parse(
        self, shape: Sequence[str] | None, *, any_tuned: bool = False
    ) -> tuple[PrefillSpec, list[PrefillShape]]:
        """The spec and the shapes that are meant; a preset's usual shapes if none is given.

        With ``any_tuned``, heads alone will do: the shapes that have a record are meant. Without
        ``--dtype``, :meth:`in_dtype_for` gives the spec its dtype once the target is known.
        """
        if bool(self.model) == bool(self.heads):
            raise InvalidOptionError(
                "give either --model (a preset: `prefilltune presets` lists them) or --heads, such "
                "as --heads 12x64"
            )
        shapes = parse_shapes(shape)
        dtype = self.dtype or "float32"
        if self.model:
            chosen = preset(self.model)
            return chosen.spec(dtype), shapes or list(chosen.shapes)
        if not shapes and not any_tuned:
            raise InvalidOptionError("--heads needs a shape too, such as --shape 4x128")
        return parse_heads(self.heads, self.mask_mode, dtype), shapes

    def in_dtype_for(self, spec: PrefillSpec, kind: str) -> PrefillSpec:
        """With the dtype that is asked for, else the usual one of a kind of target."""
        return spec if self.dtype else in_usual_dtype(spec, kind)


@dataclass(frozen=True)
class TargetOptions:
    """What a kernel runs on."""

    target: Annotated[
        str,
        typer.Option(
            "--target",
            help="llvm (this CPU), cuda (the first GPU), a TVM target tag, or a target in JSON.",
        ),
    ] = USUAL_KIND
    arch: Annotated[
        str | None,
        typer.Option("--arch", help="With --target cuda, such as sm_90a; the GPU's when absent."),
    ] = None
    threads: Annotated[
        int | None,
        typer.Option("--threads", help="CPU threads of a kernel; all cores when absent."),
    ] = None


@dataclass(frozen=True)
class DeviceOptions:
    """Where it is measured, if not on this machine's first device."""

    tracker: Annotated[
        str,
        typer.Option(
            "--tracker", metavar="HOST:PORT", help="Measure on the devices of a tracker's workers."
        ),
    ] = ""
    key: Annotated[str, typer.Option("--key", help="With --tracker: which devices.")] = ""
    devices: DevicesOption = ""


def parse_shapes(shape: Sequence[str] | None) -> list[PrefillShape]:
    return [PrefillShape.parse(text) for text in shape or ()]


def checked_lens(lens: Sequence[str] | None) -> Sequence[str]:
    """The length distributions to measure on."""
    chosen = lens or ("full", "uniform")
    for text in chosen:
        parse_lengths(text)
    return chosen


def in_usual_dtype(spec: PrefillSpec, kind: str) -> PrefillSpec:
    """With the dtype that is tuned for on targets of a kind when none is given."""
    return dataclasses.replace(spec, dtype=backend_of(kind).usual_dtype)


def tier_of(text: str) -> Tier:
    tiers = {"exact": Tier.EXACT, "family": Tier.FAMILY, "other-target": Tier.OTHER_TARGET}
    if text not in tiers:
        raise InvalidOptionError(f"--accept is {text!r}; choose {', '.join(tiers)}")
    return tiers[text]
