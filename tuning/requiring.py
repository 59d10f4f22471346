"""Statements by which a kernel refuses a call."""

from __future__ import annotations

from typing import Any


def require(condition: Any, message: str, error: str = "ValueError") -> Any:
    """A statement that raises an error of Python, by its name, unless ``condition`` holds."""
    from tvm.ir import StringImm
    from tvm.tirx import AssertStmt

    # TVM 0.27's Python has the first two in the other order than its constructor in C++.
    return AssertStmt(condition, StringImm(error), [StringImm(message)])  # pyright: ignore[reportArgumentType]
