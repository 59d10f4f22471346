"""What commands print with."""

from __future__ import annotations

import sys

from rich.console import Console

from ...workloads import PrefilltuneError

console = Console(markup=False, highlight=False)


def print_error(error: PrefilltuneError) -> None:
    print(f"prefilltune: {' '.join(str(error).split())}", file=sys.stderr)
