"""A target that is ready for use: TVM's Target, the key of its records and the threads used."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from ..database import TargetKey

#: Of the target that is meant when none is named: every machine has it.
USUAL_KIND = "llvm"


@dataclass(frozen=True)
class ResolvedTarget:
    """A target ready for use.

    Parameters
    ----------
    target : tvm.target.Target
        With the CPU's or the GPU's features named.
    key : TargetKey
        Names the folder of the records.
    threads : int
        CPU threads that a kernel runs with; 1 on a GPU target.
    is_here : bool
        Whether this machine has such a processor; of one that is elsewhere the architecture alone
        is known.
    recorded : tvm.target.Target, optional
        What records name as their target, where this machine stands in for it: ``target`` is then
        what its own code is made for.
    """

    target: Any
    key: TargetKey
    threads: int
    is_here: bool = True
    recorded: Any = None

    @property
    def kind(self) -> str:
        """``llvm``, ``cuda``, ..."""
        return self.key.kind


def has_feature(target: Any, feature: str) -> bool:
    """Whether the CPU of ``target`` has a feature, by LLVM's name."""
    import tvm_ffi

    return bool(tvm_ffi.get_global_func("target.llvm_cpu_has_feature")(feature, target))


def vector_lanes(target: Any) -> int:
    """float32 elements of a vector register of ``target``; 4 without AVX or AVX-512."""
    wide = ((16, "avx512f"), (8, "avx"))
    return next((lanes for lanes, feature in wide if has_feature(target, feature)), 4)


def vector_registers(target: Any) -> int:
    """Vector registers of ``target``: 32 with AVX-512 and on AArch64, else 16."""
    return 32 if any(has_feature(target, each) for each in ("avx512f", "neon")) else 16


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
