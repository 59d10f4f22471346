"""Importing TVM where PyTorch is of no use."""

from __future__ import annotations

import sys


def import_tvm_without_torch() -> None:
    """Import TVM, hiding PyTorch from it unless this process has imported PyTorch already.

    ``tvm_ffi`` imports PyTorch wherever it is installed. Without it TVM imports in 0.8 s instead of
    3.3 s, and TVMScript, which walks ``sys.modules``, parses several times faster.
    """
    if "torch" in sys.modules:
        import tvm

        return
    sys.modules["torch"] = None  # pyright: ignore[reportArgumentType]  (makes its import fail)
    try:
        import tvm  # noqa: F401
    finally:
        del sys.modules["torch"]
