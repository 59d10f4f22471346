"""A picture of comparisons: the rate of every kernel in every case, and the machine's limit."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from .comparison import DENSE, Comparison
from .errors import EnvironmentMismatchError
from .report import Row, contestants, short_title, unit_of

_DENSE_STYLE = {"facecolor": "0.85", "edgecolor": "0.45", "linewidth": 0.6}
_HATCHES = ("////", "....")
# Of the palette: charts are kept in git, and true colour takes three times the bytes.
_COLORS = 32


def draw_chart(comparisons: Sequence[Comparison], path: Path) -> None:
    """Write a PNG bar chart with one column of panels for each length distribution.

    Raises
    ------
    EnvironmentMismatchError
        Without matplotlib (extra ``report``).
    """
    try:
        import matplotlib
    except ImportError:
        raise EnvironmentMismatchError(
            "the chart needs matplotlib; run: pip install 'prefilltune[report]'"
        ) from None
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from PIL import Image

    unit = unit_of(comparisons[0])
    styles = _styles(comparisons)
    cases = list(dict.fromkeys(short_title(each, "\n") for each in comparisons))
    lens = list(dict.fromkeys(each.lens for each in comparisons))
    height = 0.15 * len(cases) * (len(styles) + 2) + 1.6
    figure, panels = pyplot.subplots(
        1, len(lens), figsize=(1.5 + 5 * len(lens), height),
        sharex=True, sharey=True, squeeze=False, layout="constrained",
    )  # fmt: skip
    drawn: dict[str, Any] = {}
    for axes, text in zip(panels[0], lens, strict=True):
        for each in comparisons:
            if each.lens == text:
                position = cases.index(short_title(each, "\n"))
                drawn.update(_draw_case(axes, each, position, styles))
        axes.set_title(f"{text} lengths", fontsize=10)
        axes.set_xlabel(f"{unit.name} on useful work (higher is better)", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(axis="x", color="0.9")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.08)
    panels[0][0].set_yticks(range(len(cases)), cases)
    panels[0][0].set_ylim(len(cases) - 0.5, -0.5)
    figure.suptitle(comparisons[0].device, fontsize=11)
    figure.legend(drawn.values(), drawn, loc="outside lower center", ncols=3, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing = BytesIO()
    figure.savefig(drawing, dpi=110)
    pyplot.close(figure)
    image = (
        Image.open(drawing)
        .convert("RGB")
        .quantize(_COLORS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    )
    image.save(path, format="PNG", optimize=True)


def _draw_case(
    axes: Any, comparison: Comparison, position: int, styles: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Draw the bars of a case around ``position``; what to show in the legend, by name."""
    unit, work = unit_of(comparison), comparison.tuned_gflops * comparison.tuned_ms
    thickness = 0.88 / len(styles)
    drawn = {}
    for row in contestants(comparison):
        series = _series(row)
        index = list(styles).index(series)
        at = position + (index - (len(styles) - 1) / 2) * thickness
        rate = 0.0 if row.ms is None else work / row.ms
        drawn[series] = axes.barh(at, rate / unit.gflops, thickness * 0.9, **styles[series])
        text = "failed" if row.ms is None else f"{rate / unit.gflops:.3g}"
        axes.text(rate / unit.gflops, at, f" {text}", va="center", fontsize=6.5,
                  weight="bold" if row.key == "tuned" else "normal")  # fmt: skip
    (limit,) = axes.plot(
        [comparison.limit_gflops / unit.gflops] * 2, [position - 0.46, position + 0.46], "k--", lw=1
    )
    return {**drawn, "matrix product (limit)": limit}


def _styles(comparisons: Sequence[Comparison]) -> dict[str, dict[str, Any]]:
    """How the bars of each series look, in the order in which they are drawn."""
    rows = {_series(row): row for each in comparisons for row in contestants(each)}
    dense = [name for name, row in rows.items() if row.kind == DENSE]
    others = [name for name in rows if name not in dense]
    looks = {name: {"color": f"C{index}"} for index, name in enumerate(others)}
    looks |= {
        name: {**_DENSE_STYLE, "hatch": _HATCHES[index % len(_HATCHES)]}
        for index, name in enumerate(dense)
    }
    return {name: looks[name] for name in rows}


def _series(row: Row) -> str:
    return f"{row.name} (wrong on padding)" if row.kind == DENSE else row.name
