"""The C++ example, built for a library and run."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

needs_cpp = pytest.mark.skipif(
    not (shutil.which("cmake") and shutil.which("c++")), reason="needs CMake and a C++ compiler"
)


def check_cpp_example(dist: Path, folder: Path) -> None:
    """Assert that it finds every kernel of a library right; it is built in ``folder``."""
    example = Path(__file__).parent.parent / "examples" / "cpp"
    package = importlib.util.find_spec("tvm")
    assert package is not None
    assert package.origin is not None
    config = [sys.executable, "-m", "tvm_ffi.config", "--cmakedir"]
    ffi = subprocess.run(config, capture_output=True, text=True, check=True).stdout.strip()
    commands = (
        ["cmake", "-S", str(example), "-B", str(folder), f"-DPREFILL_DIST={dist}",
         f"-DTVM_LIB_DIR={Path(package.origin).parent / 'lib'}", f"-Dtvm_ffi_ROOT={ffi}",
         f"-DPython_EXECUTABLE={sys.executable}"],
        ["cmake", "--build", str(folder)],
        [str(folder / "run_prefill")],
    )  # fmt: skip
    for command in commands:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False,
            env={**os.environ, "TVM_NUM_THREADS": "2"},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    kernels = json.loads((dist / "manifest.json").read_text())["kernels"]
    lines = done.stdout.splitlines()
    assert len(lines) == len(kernels) == 2
    for line, kernel in zip(lines, kernels, strict=True):
        assert line.startswith(f"{kernel['symbol']}: error ")
        assert line.endswith(", right")
