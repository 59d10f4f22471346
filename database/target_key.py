"""Which machine records are for; also the name of their folder."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .errors import InvalidTargetKeyError

_OTHER_16_BITS = {"float16": "bfloat16", "bfloat16": "float16"}
_FIRST_WITH_BFLOAT16 = 80  # of NVIDIA's architectures: Ampere


@dataclass(frozen=True)
class TargetKey:
    """The machine that records are valid for, or without a device a level that many machines have.

    Records of a level were timed on some machine that has it, and are right on all of them: they
    are portable.

    Parameters
    ----------
    kind : str
        TVM target kind, such as ``llvm`` or ``cuda``.
    arch : str
        Processor architecture, such as ``znver4`` or ``sm_90a``.
    device : str
        What tells machines of one architecture apart: ``2c`` (cores used), ``h100``. May be empty.
    levels : tuple[str, ...]
        Architectures whose code the machine runs too, the best first, such as ``x86-64-v3``. Known
        where a target is resolved, and no part of the text.

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
    >>> [str(each) for each in TargetKey("llvm", "znver3", "2c", ("x86-64-v3",)).portable]
    ['llvm-x86_64_v3']
    """

    kind: str
    arch: str
    device: str = ""
    levels: tuple[str, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("kind", "arch", "device"):
            part = getattr(self, name).replace("-", "_")
            if not re.fullmatch(r"[A-Za-z0-9_.]+", part) and (name != "device" or part):
                raise InvalidTargetKeyError(
                    f"target {name} {part!r} must be made of letters, digits, '_' and '.': "
                    "rename it"
                )
            object.__setattr__(self, name, part)

    @property
    def family(self) -> str:
        """Kind and arch: what devices must share to run each other's kernels."""
        return f"{self.kind}-{self.arch}"

    @property
    def portable(self) -> tuple[TargetKey, ...]:
        """The levels whose records serve this machine, the best first."""
        return tuple(TargetKey(self.kind, level) for level in self.levels)

    def dtypes_like(self, dtype: str) -> tuple[str, ...]:
        """Dtypes whose records serve another one that has none of its own, the nearest first.

        What was decided for one dtype of 16 bits is good for the other, but on NVIDIA GPUs before
        Ampere, which have no bfloat16. CPUs compute with float32 whatever tensors hold, so that
        what was decided for float32 is good for 16 bits too.

        Examples
        --------
        >>> [TargetKey("cuda", arch).dtypes_like("bfloat16") for arch in ("sm_75", "sm_80")]
        [(), ('float16',)]
        >>> TargetKey("llvm", "znver4").dtypes_like("bfloat16")
        ('float16', 'float32')
        """
        other = _OTHER_16_BITS.get(dtype)
        if other is None:
            return ()
        of_nvidia = re.match(r"sm_(\d+)", self.arch)
        if of_nvidia is not None and int(of_nvidia[1]) < _FIRST_WITH_BFLOAT16:
            return ()
        return (other, "float32") if self.kind == "llvm" else (other,)

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
        kind, arch, device = (*parts, "")[:3]
        return cls(kind, arch, device)
