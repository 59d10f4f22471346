"""The command line: ``prefilltune tune | plan | compare | build | report | presets | db | ...``.

One module for each command or two that belong together; beside them ``options``, ``targets`` and
``records``, which they share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..ending import Ending

if TYPE_CHECKING:
    from .commands import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line, and hear signals before anything else is imported."""
    with Ending() as ending:
        from .commands import run

        run(ending)


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .commands import app

    return app
