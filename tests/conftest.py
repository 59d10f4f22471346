"""Options of the test suite."""

from __future__ import annotations

import os

import pytest

# pytest-xdist sets it, and commands would take their output for a terminal of that width.
os.environ.pop("COLUMNS", None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="accept what is generated now as golden"
    )
