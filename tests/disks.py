"""File systems of their own for tests that fill them or may not write to them."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def mounted(*options: str) -> Iterator[Path]:
    """What ``mount`` is told to put there; skips the test where nothing may be mounted."""
    mount = shutil.which("mount")
    with tempfile.TemporaryDirectory() as folder:
        if (
            mount is None
            or subprocess.run([mount, *options, folder], capture_output=True).returncode
        ):
            pytest.skip("needs the right to mount")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


def small_disk(size: str) -> contextlib.AbstractContextManager[Path]:
    """A file system of its own."""
    return mounted("-t", "tmpfs", "-o", f"size={size}", "tmpfs")
