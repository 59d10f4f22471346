"""Options that several commands take, and what they say."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...database import Tier
from ...database.finder import ACCEPTED, NEAREST
from ...workloads import (
    CHOICES,
    MASK_MODES,
    PrefillShape,
    PrefillSpec,
    parse_lengths,
    preset,
)
from ...workloads.choices import CALL_CHOICES, Choice, parsed_choices
from ..errors import InvalidOptionError
from ..heads import parse_heads
from ..target import USUAL_KIND

if TYPE_CHECKING:
    from ..target import ResolvedTarget

ShapeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        metavar="BATCHxLEN",
        help="Or BATCHxQO_LENxKV_LEN; repeat for more. When absent, every shape that has a record, "
        "or else a model's usual ones; to tune, these.",
    ),
]
LensOption = Annotated[
    list[str] | None,
    typer.Option(
        "--lens",
        help="Lengths to time on: full, uniform (a quarter to full), uniform:LOW-HIGH, "
        "fixed:N,N,... or histogram:FILE; repeat for more. full and uniform when absent.",
    ),
]
ServedLensOption = Annotated[
    str,
    typer.Option(
        "--lens",
        help="Which record serves a shape that was tuned on several length distributions: that of "
        "this one, or else, also when absent, the one that loses least over all of them.",
    ),
]
_WORK = "database/work of a clone, or prefilltune-work here, when absent"
#: Of a command that looks for records: the user's, before the committed ones.
DatabaseOption = Annotated[
    Path | None,
    typer.Option(
        "--database", help=f"Folder of records, looked into before the committed; {_WORK}."
    ),
]
#: Of a command that writes records.
OwnDatabaseOption = Annotated[
    Path | None, typer.Option("--database", help=f"Folder of records; {_WORK}.")
]
AcceptOption = Annotated[
    str,
    typer.Option(
        "--accept",
        help="Furthest record to take: exact (this target's), family (another device of the same "
        "architecture), portable (of a level that many processors have), other-target (another "
        "architecture) or nearest (of these the nearest there is that the target runs); for a GPU "
        "that is named by --arch alone, family at least.",
    ),
]
DevicesOption = Annotated[
    str,
    typer.Option(
        "--devices",
        metavar="0,1,...",
        help="GPUs of this machine, by the numbers or names that CUDA_VISIBLE_DEVICES takes.",
    ),
]


@dataclass(frozen=True, init=False)
class ChoiceOptions:
    """What a spec may choose: an option for each of ``CHOICES``.

    Parameters
    ----------
    texts : Mapping[str, str]
        Of those that are given, by the choices' names.
    """

    texts: Mapping[str, str]

    __signature__ = inspect.Signature(
        [
            inspect.Parameter(
                each.name,
                inspect.Parameter.KEYWORD_ONLY,
                default="",
                annotation=Annotated[
                    str,
                    typer.Option(
                        each.option,
                        metavar=each.metavar,
                        help=f"{'' if each in CALL_CHOICES else 'With --heads: '}{each.help}.",
                    ),
                ],
            )
            for each in CHOICES
        ]
    )

    def __init__(self, **texts: str) -> None:
        object.__setattr__(self, "texts", {name: text for name, text in texts.items() if text})


@dataclass(frozen=True)
class WorkloadOptions:
    """Which attention a kernel is for: a model's, or heads by themselves."""

    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="NAME[:ATTENTION]",
            help="A preset, with masks and scores of its own, or one attention of several; "
            "`prefilltune presets` lists them.",
        ),
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
        str,
        typer.Option(
            "--mask-mode",
            help=f"With --heads, a name for --padding and --window in the place of these: "
            f"{' or '.join(MASK_MODES)}; {MASK_MODES[0]} when all are absent.",
        ),
    ] = ""
    choices: ChoiceOptions = ChoiceOptions()
    sm_scale: Annotated[
        float | None,
        typer.Option(
            "--sm-scale",
            help="With --heads: factor on query times key; 1 / sqrt(DIM) when absent.",
        ),
    ] = None
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype",
            help="float32, float16 or bfloat16; float32 on llvm and float16 on cuda when absent.",
        ),
    ] = ""
    lse_dtype: Annotated[
        str,
        typer.Option(
            "--lse-dtype", help="float32 where parts are merged; the other tensors' when absent."
        ),
    ] = ""

    def parse(
        self, shape: Sequence[str] | None, *, any_tuned: bool = False
    ) -> tuple[list[PrefillSpec], list[PrefillShape]]:
        """The specs and the shapes that are meant, each spec on each shape.

        A preset has a spec for each of its attentions, and its usual shapes if none is given.
        With ``any_tuned``, heads alone will do: the shapes that have a record are meant. Specs
        have their dtypes once the target is known: :meth:`in_dtype_for` gives them these.
        """
        if bool(self.model) == bool(self.heads):
            raise InvalidOptionError(
                "give either --model (a preset: `prefilltune presets` lists them) or --heads, such "
                "as --heads 12x64"
            )
        shapes = parse_shapes(shape)
        dtype = self.dtype or "float32"
        self._refuse_without_heads(f"{self.model} has its own")
        choices = parsed_choices(self.choices.texts)
        if self.model:
            chosen = preset(self.model)
            specs = [each.as_called(**choices) for each in chosen.specs(dtype)]
            return specs, shapes or list(chosen.shapes)
        if not shapes and not any_tuned:
            raise InvalidOptionError("--heads needs a shape too, such as --shape 4x128")
        spec = parse_heads(self.heads, self.mask_mode or None, dtype, self.sm_scale, **choices)
        return [spec], shapes

    def parse_if_given(
        self, shape: Sequence[str] | None
    ) -> tuple[list[PrefillSpec], list[PrefillShape]] | None:
        """As :meth:`parse` does of what may have been tuned; None where every workload is meant."""
        if self.model or self.heads:
            return self.parse(shape, any_tuned=True)
        self._refuse_without_heads("give the heads too, or leave it out")
        options = self._given(CALL_CHOICES) | {"--lse-dtype": self.lse_dtype}
        for option, value in options.items():
            if value:
                raise InvalidOptionError(
                    f"{option} {value} goes with --model or --heads; give one of them too, or "
                    "leave it out"
                )
        return None

    def _refuse_without_heads(self, reason: str) -> None:
        options = self._given([each for each in CHOICES if each not in CALL_CHOICES])
        options |= {"--mask-mode": self.mask_mode, "--sm-scale": self.sm_scale}
        for option, value in options.items():
            if value not in ("", None) and not self.heads:
                raise InvalidOptionError(f"{option} {value} goes with --heads; {reason}")

    def _given(self, choices: Iterable[Choice]) -> dict[str, Any]:
        return {each.option: self.choices.texts.get(each.name) for each in choices}

    def in_dtype_for(self, specs: Sequence[PrefillSpec], kind: str) -> list[PrefillSpec]:
        """With the dtypes that are asked for, else the usual one of a kind of target."""
        typed = specs if self.dtype else [in_usual_dtype(each, kind) for each in specs]
        return [dataclasses.replace(each, lse_dtype=self.lse_dtype or None) for each in typed]


AgainstOption = Annotated[
    str | None,
    typer.Option(
        "--against",
        metavar="REVISION",
        help="Of git, such as HEAD~1 or origin/main: what is better, worse, new and gone since.",
    ),
]


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
        typer.Option("--threads", help="CPU threads of a kernel; every usable core when absent."),
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
    """The shapes that are asked for, each once."""
    return list(dict.fromkeys(PrefillShape.parse(text) for text in shape or ()))


def checked_lens(lens: Sequence[str] | None) -> Sequence[str]:
    """The length distributions to measure on."""
    chosen = lens or ("full", "uniform")
    for text in chosen:
        parse_lengths(text)
    return chosen


def in_usual_dtype(spec: PrefillSpec, kind: str) -> PrefillSpec:
    """With the dtype that is tuned for on targets of a kind when none is given."""
    from ..backends import backend_of

    # The LSE's follows: as a spec has it, it is that of the dtype before.
    return dataclasses.replace(spec, dtype=backend_of(kind).usual_dtype, lse_dtype=None)


def check_accept(text: str) -> None:
    """Refuse what --accept does not take."""
    if text not in (*ACCEPTED, NEAREST):
        options = ", ".join([*ACCEPTED, NEAREST])
        raise InvalidOptionError(f"--accept is {text!r}; choose {options}")


def tier_of(text: str, target: ResolvedTarget) -> Tier:
    """The furthest tier that --accept means on a target."""
    from ..backends import backend_of

    tier = backend_of(target.kind).furthest if text == NEAREST else ACCEPTED[text]
    return tier if target.is_here else max(tier, Tier.FAMILY)
