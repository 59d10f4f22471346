"""Features of CPUs that machine code of our kernels may use."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

#: What LLVM uses by itself where a target has it, by its name, and how Linux writes it. Features
#: that only intrinsics reach (AMX, cryptography) and those of the system are no part of a kernel;
#: virtual machines hide many of them.
LINUX_NAMES = {
    # x86
    "ssse3": "ssse3",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
    "popcnt": "popcnt",
    "avx": "avx",
    "f16c": "f16c",
    "fma": "fma",
    "avx2": "avx2",
    "bmi": "bmi1",
    "bmi2": "bmi2",
    "lzcnt": "abm",
    "movbe": "movbe",
    "fma4": "fma4",
    "xop": "xop",
    "avx512f": "avx512f",
    "avx512cd": "avx512cd",
    "avx512bw": "avx512bw",
    "avx512dq": "avx512dq",
    "avx512vl": "avx512vl",
    "avx512ifma": "avx512ifma",
    "avx512vbmi": "avx512vbmi",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512vnni": "avx512_vnni",
    "avx512bitalg": "avx512_bitalg",
    "avx512vpopcntdq": "avx512_vpopcntdq",
    "avx512bf16": "avx512_bf16",
    "avx512fp16": "avx512_fp16",
    "avxvnni": "avx_vnni",
    "avxvnniint8": "avx_vnni_int8",
    "avxneconvert": "avx_ne_convert",
    "avxifma": "avx_ifma",
    # AArch64
    "neon": "asimd",
    "rdm": "asimdrdm",
    "fullfp16": "asimdhp",
    "fp16fml": "asimdfhm",
    "dotprod": "asimddp",
    "complxnum": "fcma",
    "bf16": "bf16",
    "i8mm": "i8mm",
    "sve": "sve",
    "sve2": "sve2",
}


def used_by_code(features: Iterable[str]) -> list[str]:
    """Those of LLVM's features that code for a target may use.

    >>> used_by_code({"avx2", "amx-tile", "fast-gather", "avx"})
    ['avx', 'avx2']
    """
    found = set(features)
    return [name for name in LINUX_NAMES if name in found]


def told_by_linux(text: str) -> set[str]:
    """LLVM's names of the features in a text such as that of ``/proc/cpuinfo``.

    >>> sorted(told_by_linux("flags : fpu avx2 abm\\nflags : fpu avx2 abm"))
    ['avx2', 'lzcnt']
    """
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    written = set() if found is None else set(found[1].split())
    return {name for name, linux in LINUX_NAMES.items() if linux in written}


def cpu_info() -> str:
    """What Linux says of the CPU at hand; empty elsewhere."""
    info = Path("/proc/cpuinfo")
    return info.read_text(encoding="utf-8", errors="replace") if info.exists() else ""
