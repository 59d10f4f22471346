"""Comparisons in short, as Markdown: what the page says first, for where there is no browser."""

from __future__ import annotations

from collections.abc import Sequence

from ...workloads import PrefillSpec
from .chart import by_device
from .comparison import Comparison
from .report import unit_of
from .standing import Mean, Standing, times

#: What lengths are called where no sequence has padding, and where some have.
FULL, MIXED = "full", "mixed"

_ABOUT = (
    "Geometric means, and from the least to the most of single cases. Every kernel is checked "
    "against a float64 reference before it is timed, on padding that holds NaN; then all are timed "
    "in turns. Rates count useful work alone: pairs of positions that the mask keeps. The limit is "
    "a matrix product in the same run."
)


def markdown(comparisons: Sequence[Comparison], chart: str) -> str:
    """The summary: a sentence and a table for each device.

    Parameters
    ----------
    comparisons
        One or more.
    chart : str
        Where the chart is.
    """
    parts = ["# Tuned kernels compared\n", f"![of the chip's limit]({chart})\n", f"{_ABOUT}\n"]
    for device, cases in by_device(comparisons).items():
        parts += [f"## {device}\n", f"{Standing.of(cases).sentence()}\n", _table(cases)]
    return "\n".join(parts)


def lengths_of(comparison: Comparison) -> str:
    """:data:`FULL` or :data:`MIXED`."""
    return FULL if comparison.lens == FULL else MIXED


def _table(cases: Sequence[Comparison]) -> str:
    unit = unit_of(cases[0])
    groups: dict[tuple[str, str], list[Comparison]] = {}
    for each in cases:
        key = (PrefillSpec.parse(each.spec).dtype, lengths_of(each))
        groups.setdefault(key, []).append(each)
    columns = ["", "cases", f"tuned, {unit.name}", "of the limit"]
    rows = [(f"{dtype}, {lengths}", Standing.of(groups[dtype, lengths]))
            for dtype, lengths in sorted(groups)]  # fmt: skip
    whole = Standing.of(cases)
    rows.append(("all", whole))
    columns += [f"over {title}" for title in whole.rivals.values()]
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)]]
    for name, standing in rows:
        over = [_spread(standing.over.get(rival), standing.cases) for rival in whole.rivals]
        share = f"{standing.share.mean:.0%}"
        origins = standing.origins and f" ({standing.origins})"
        lines.append(
            [name + origins, str(standing.cases), unit.text(standing.gflops), share, *over]
        )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _spread(over: Mean | None, cases: int) -> str:
    if over is None:
        return "-"
    of = "" if over.cases == cases else f" in {over.cases}"
    return f"{times(over.mean)} ({over.least:.3g} to {over.most:.3g}){of}"
