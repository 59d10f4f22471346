"""``python -m prefilltune.tuning.cli``, as merge drivers in git's settings have it."""

from . import main

main()
