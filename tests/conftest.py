"""Options of the test suite: which tests run, in which order, and how long properties are tried."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings
from remembered_builds import RememberingBuilder

from prefilltune.tuning.measuring.cpu import tvm_environment
from prefilltune.tuning.measuring.tvm_import import import_tvm_without_torch
from prefilltune.tuning.measuring.worker import Worker
from prefilltune.tuning.target import usable_cores

# pytest-xdist sets it, and commands would take their output for a terminal of that width.
os.environ.pop("COLUMNS", None)
# As in worker processes: where PyTorch is installed, TVM imports and parses several times slower.
import_tvm_without_torch()

#: Examples of a property that compiles kernels or starts processes, and of one that only computes.
settings.register_profile("fast", deadline=None, max_examples=30)
settings.register_profile("slow", deadline=None, max_examples=40)
settings.register_profile("thorough", deadline=None, max_examples=100)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="accept what is generated now as golden"
    )
    parser.addoption(
        "--slow", action="store_true", help="run the tests marked slow too, and try more examples"
    )
    parser.addoption(
        "--thorough", action="store_true", help="with --slow: those marked thorough too"
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: tests wait for other processes, and for what is to fail."""
    return usable_cores() + 1


def pytest_configure(config: pytest.Config) -> None:
    asked = (name for name in ("thorough", "slow") if config.getoption(f"--{name}"))
    settings.load_profile(next(asked, "fast"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files with slow tests begin, so that no worker is left alone with one at the end."""
    if not config.getoption("--thorough"):
        for item in items:
            if item.get_closest_marker("thorough") is not None:
                reason = "thorough: run with --slow --thorough, or make test THOROUGH=1"
                item.add_marker(pytest.mark.skip(reason=reason))
    slow = [item for item in items if item.get_closest_marker("slow") is not None]
    if config.getoption("--slow"):
        first = {item.path for item in slow}
        items.sort(key=lambda item: item.path not in first)
        return
    for item in slow:
        item.add_marker(pytest.mark.skip(reason="slow: run with --slow, or make test SLOW=1"))


@pytest.fixture(scope="session")
def builders() -> Iterator[list[RememberingBuilder]]:
    """Two builders for all searches that need none of their own."""
    libraries: dict[bytes, bytes] = {}
    with Worker(tvm_environment(1)) as first, Worker(tvm_environment(1)) as second:
        yield [RememberingBuilder(worker, libraries) for worker in (first, second)]
