"""What became of a model's attention calls."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_logger = logging.getLogger("prefilltune.transformers")


@dataclass
class Report:
    """Counts of calls, one a layer and forward pass; ``print`` shows it.

    A compiled graph, or one that a GPU replays, is counted once, as it is made.

    Parameters
    ----------
    served : Counter
        Calls that a kernel served, by its spec.
    handed_over : Counter
        Calls that SDPA served instead, by the reason and what can be done about it.
    copied : Counter
        Calls whose query, key or value had to be copied, by its name.
    libraries : list[Path]
        What was loaded for the model.
    missing : list[str]
        Attentions of the model without a kernel, and why.
    stand_ins : list[str]
        Of libraries that were built, records of other targets than this machine: which they are,
        and the command that makes some of its own.
    """

    served: Counter[Any] = field(default_factory=Counter)
    handed_over: Counter[str] = field(default_factory=Counter)
    copied: Counter[str] = field(default_factory=Counter)
    libraries: list[Path] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    stand_ins: list[str] = field(default_factory=list)

    def hand_over(self, reason: str) -> None:
        """Count a call that no kernel serves; the first for each reason is logged."""
        if reason not in self.handed_over:
            _logger.warning("attention is left to SDPA: %s", reason)
        self.handed_over[reason] += 1

    def clear(self) -> None:
        """Count from nothing again."""
        for counts in (self.served, self.handed_over, self.copied):
            counts.clear()

    def __str__(self) -> str:
        lines = [f"library {path}" for path in self.libraries]
        lines += [f"missing {reason}" for reason in self.missing]
        lines += self.stand_ins
        for title, counts in (
            ("served by a kernel", self.served),
            ("left to SDPA", self.handed_over),
            ("copied before", self.copied),
        ):
            lines.append(f"{title}: {sum(counts.values())} calls")
            lines += [f"  {count} {what}" for what, count in counts.most_common()]
        return "\n".join(lines)
