"""Options that several commands take, and what they say."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ...database import Tier
from ...workloads import MASK_MODES, PrefillShape, PrefillSpec, preset
from ..backends import backend_of
from ..errors import InvalidOptionError
from ..heads import parse_heads

TargetOption = Annotated[
    str,
    typer.Option(
        "--target",
        help="llvm (this CPU), cuda (the first GPU), a TVM target tag, or a target in JSON.",
    ),
]
ArchOption = Annotated[
    str | None,
    typer.Option("--arch", help="With --target cuda, such as sm_90a; the GPU's when absent."),
]
ModelOption = Annotated[
    str, typer.Option("--model", help="A preset; `prefilltune presets` lists them.")
]
HeadsOption = Annotated[
    str,
    typer.Option(
        "--heads",
        metavar="QO[/KV]xDIM",
        help="Heads instead of a preset, such as 8x64 or 32/8x128.",
    ),
]
MaskOption = Annotated[str, typer.Option("--mask-mode", help=f"With --heads: {MASK_MODES}.")]
DtypeOption = Annotated[
    str,
    typer.Option(
        "--dtype",
        help="float32, float16 or bfloat16; float32 on llvm and float16 on cuda when absent.",
    ),
]
ShapeOption = Annotated[
    list[str] | None,
    typer.Option("--shape", metavar="BATCHxLEN", help="Repeat for more; or BATCHxQO_LENxKV_LEN."),
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", help="CPU threads of a kernel; all cores when absent.")
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


def workload_of(
    model: str,
    heads: str,
    mask_mode: str,
    dtype: str,
    shape: Sequence[str] | None,
    *,
    any_tuned: bool = False,
) -> tuple[PrefillSpec, list[PrefillShape]]:
    """The spec and the shapes that the options name; a preset's usual shapes if none is given.

    With ``any_tuned``, heads alone will do: the shapes that have a record are meant.
    """
    if bool(model) == bool(heads):
        raise InvalidOptionError(
            "give either --model (a preset: `prefilltune presets` lists them) or --heads, such as "
            "--heads 12x64"
        )
    shapes = [PrefillShape.parse(text) for text in shape or ()]
    if model:
        chosen = preset(model)
        return chosen.spec(dtype or "float32"), shapes or list(chosen.shapes)
    if not shapes and not any_tuned:
        raise InvalidOptionError("--heads needs a shape too, such as --shape 4x128")
    return parse_heads(heads, mask_mode, dtype or "float32"), shapes


def in_usual_dtype(spec: PrefillSpec, kind: str) -> PrefillSpec:
    """With the dtype that is tuned for on targets of a kind when none is given."""
    return dataclasses.replace(spec, dtype=backend_of(kind).usual_dtype)


def tier_of(text: str) -> Tier:
    tiers = {"exact": Tier.EXACT, "family": Tier.FAMILY, "other-target": Tier.OTHER_TARGET}
    if text not in tiers:
        raise InvalidOptionError(f"--accept is {text!r}; choose {', '.join(tiers)}")
    return tiers[text]
