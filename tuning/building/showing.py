"""One kernel on its way from the plain description to machine code, stage by stage, for readers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...database import Entry
from ...workloads import PrefillShape, PrefillSpec, plain_attention
from ...workloads.elementary import BUILT_IN
from ..backends import backend_of
from ..derivation import online_text
from ..spaces import Variant
from .build import generate
from .describing import describe_as_tuned
from .replaying import described_as, origin_of, replay_record

_DEVICE_SOURCE = re.compile(r'source_code="(?:[^"\\]|\\.)*"')

#: What each stage is, in the order in which one becomes the next.
STAGES = {
    "plain": "what attention is, one sblock a stage, over whole tensors",
    "online": "one pass over the keys, derived from it; not TIR yet, for nothing is tiled",
    "tiled": "what a design space schedules: that in tiles (or plain, for TVM's stock rules)",
    "scheduled": "after the record's trace, loops pipelined: the TIR that TVM compiles",
    "source": "what TVM makes of it: CUDA, or a CPU's assembly",
}
#: Those that there are before anything is tuned.
UNTUNED = ("plain", "online", "tiled")


@dataclass(frozen=True)
class Kernel:
    """What is shown.

    Parameters
    ----------
    spec, shape
        The workload.
    target : tvm.target.Target
        Complete.
    space : str
        The design space.
    variant : Variant
        Its description.
    entry : Entry, optional
        The record that says how it is scheduled; without one, the stages of :data:`UNTUNED` alone
        are known.
    """

    spec: PrefillSpec
    shape: PrefillShape
    target: Any
    space: str
    variant: Variant
    entry: Entry | None = None


@dataclass(frozen=True)
class Shown:
    """A stage of a kernel.

    Parameters
    ----------
    heading : tuple of str
        What it is, a line each.
    code : str
        Ends in no newline.
    language : str
        By Pygments' name for it.
    comment : str
        How a comment begins in it.
    """

    heading: tuple[str, ...]
    code: str
    language: str = "python"
    comment: str = "#"

    @property
    def lines(self) -> int:
        """Of the code."""
        return 1 + self.code.count("\n")

    def __str__(self) -> str:
        """The code as a file that says what it is."""
        return "\n".join([*(f"{self.comment} {line}" for line in self.heading), "", self.code])


def show_stage(stage: str, kernel: Kernel) -> Shown:
    """``kernel`` at one of :data:`STAGES`.

    Raises
    ------
    StaleRecordError
        If its record no longer replays.
    ValueError
        If it has no record, and the stage needs one.
    """
    if stage not in UNTUNED and kernel.entry is None:
        raise ValueError(f"the stage {stage!r} is made of a record, and there is none")
    heading = (f"{stage}: {STAGES[stage]}", f"{kernel.spec} at {kernel.shape}")
    return _SHOWN[stage](kernel, heading)


def _plain(kernel: Kernel, heading: tuple[str, ...]) -> Shown:
    return Shown(heading, _script(plain_attention(kernel.spec, kernel.shape, BUILT_IN)))


def _online(kernel: Kernel, heading: tuple[str, ...]) -> Shown:
    return Shown(heading, online_text(kernel.spec, kernel.shape))


def _tiled(kernel: Kernel, heading: tuple[str, ...]) -> Shown:
    spec = kernel.spec.within(kernel.shape)
    if kernel.entry is not None:
        _, tuned, _, _ = origin_of(kernel.entry)
        spec = described_as(kernel.spec, tuned, kernel.shape)
    described = describe_as_tuned(kernel.space, spec, kernel.shape, kernel.variant)
    return Shown((*heading, _origin(kernel)), _script(described))


def _scheduled(kernel: Kernel, heading: tuple[str, ...]) -> Shown:
    return Shown((*heading, _origin(kernel)), _script(_replayed(kernel)))


def _source(kernel: Kernel, heading: tuple[str, ...]) -> Shown:
    backend = backend_of(kernel.target.kind.name)
    code = backend.source(generate(_replayed(kernel), kernel.target)).strip("\n")
    heading = (*heading, _origin(kernel), f"for {kernel.target}")
    return Shown(heading, code, backend.source_language, backend.source_comment)


_SHOWN: dict[str, Callable[[Kernel, tuple[str, ...]], Shown]] = {
    "plain": _plain,
    "online": _online,
    "tiled": _tiled,
    "scheduled": _scheduled,
    "source": _source,
}


def _replayed(kernel: Kernel) -> Any:
    assert kernel.entry is not None
    return replay_record(kernel.entry, kernel.shape, kernel.spec)


def _script(module: Any) -> str:
    """As TVM prints it, but for the source of device functions, which the last stage shows."""
    return _DEVICE_SOURCE.sub('source_code="..."', module.script().strip("\n"))


def _origin(kernel: Kernel) -> str:
    variant = ", ".join(f"{name} {value}" for name, value in kernel.variant.items())
    of_space = f"{kernel.space} with {variant}" if variant else kernel.space
    if kernel.entry is None:
        return f"{of_space}; there is no record yet"
    return f"record {kernel.entry.record_id} of {of_space}"
