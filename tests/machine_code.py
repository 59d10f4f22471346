"""What a compiler made of a kernel, for tests to read."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from prefilltune.tuning.backends.cuda_code import device_source
from prefilltune.tuning.backends.nvrtc import Cubin, compile_cubin
from prefilltune.tuning.building.build import generate


def compile_device(module: Any, target: Any) -> tuple[str, Cubin]:
    """The CUDA source of a scheduled module and what NVRTC makes of it."""
    source = device_source(generate(module, target))
    return source, compile_cubin(source, str(target.attrs["arch"]))


def instructions(image: bytes, folder: Path) -> str:
    """The machine code of a cubin, disassembled by NVIDIA's own tool."""
    tool = next(Path(sysconfig.get_path("purelib")).glob("nvidia/*/bin/nvdisasm"), None)
    if tool is None:
        pytest.skip("needs nvidia-cuda-nvdisasm")
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(image)
    return subprocess.run([tool, cubin], capture_output=True, text=True, check=True).stdout
