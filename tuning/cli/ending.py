"""The ending of the command that runs."""

from __future__ import annotations

import typer

from ..ending import Ending


def ending_of(context: typer.Context) -> Ending:
    """What ends this process when a signal tells it to; outside a command line, nothing does."""
    return context.find_object(Ending) or Ending()
