"""Which machine records are for; also the name of their folder."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import InvalidTargetKeyError


@dataclass(frozen=True)
class TargetKey:
    """The machine that records are valid for.

    Parameters
    ----------
    kind : str
        TVM target kind, such as ``llvm`` or ``cuda``.
    arch : str
        Processor architecture, such as ``znver4`` or ``sm_90a``.
    device : str
        What tells machines of one architecture apart: ``2c`` (cores used), ``h100``. May be empty.

    Notes
    -----
    ``-`` separates the parts of the text, so that within a part it becomes ``_``.

    Raises
    ------
    InvalidTargetKeyError
        If a part holds other characters than ``A-Z a-z 0-9 _ .``, or kind or arch is empty.

    Examples
    --------
    >>> str(TargetKey("llvm", "x86-64-v3", "2c"))
    'llvm-x86_64_v3-2c'
    >>> TargetKey.parse("cuda-sm_90a-h100").family
    'cuda-sm_90a'
    """

    kind: str
    arch: str
    device: str = ""

    def __post_init__(self) -> None:
        for field in ("kind", "arch", "device"):
            part = getattr(self, field).replace("-", "_")
            if not re.fullmatch(r"[A-Za-z0-9_.]+", part) and (field != "device" or part):
                raise InvalidTargetKeyError(
                    f"target {field} {part!r} must be made of letters, digits, '_' and '.': "
                    "rename it"
                )
            object.__setattr__(self, field, part)

    @property
    def family(self) -> str:
        """Kind and arch: what devices must share to run each other's kernels."""
        return f"{self.kind}-{self.arch}"

    def __str__(self) -> str:
        return f"{self.family}-{self.device}" if self.device else self.family

    @classmethod
    def parse(cls, text: str) -> TargetKey:
        """Invert ``str(key)``.

        Raises
        ------
        InvalidTargetKeyError
            If ``text`` is not the canonical text of a key.
        """
        parts = text.split("-")
        if len(parts) not in (2, 3) or not all(parts):
            raise InvalidTargetKeyError(
                f"{text!r} is not a target key; write KIND-ARCH or KIND-ARCH-DEVICE, such as "
                "llvm-znver4-2c"
            )
        return cls(*parts)
