"""``python -m prefilltune.tuning`` is the command line."""

from .cli import main

main()
