"""What a compiler made of a kernel, for tests to read."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

import pytest


def instructions(image: bytes, folder: Path) -> str:
    """The machine code of a cubin, disassembled by NVIDIA's own tool."""
    tool = next(Path(sysconfig.get_path("purelib")).glob("nvidia/*/bin/nvdisasm"), None)
    if tool is None:
        pytest.skip("needs nvidia-cuda-nvdisasm")
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(image)
    return subprocess.run([tool, cubin], capture_output=True, text=True, check=True).stdout
