"""A picture of comparisons: the rate of every kernel in every case, and the machine's limit.

Few cases are bars with their figures; many are a panel for each workload and length distribution,
over the shapes.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from textwrap import fill
from typing import Any

from ...database.writing import write_file
from ..environment import pip_install
from ..errors import EnvironmentMismatchError
from .comparison import DENSE, Comparison
from .report import Row, contestants, place, shape_title, short_title, unit_of, workload_title

_DENSE_STYLE = {"facecolor": "0.85", "edgecolor": "0.45", "linewidth": 0.6}
_HATCHES = ("////", "....", "\\\\\\\\", "xxxx")
_DENSE_LINES = (("x", "--"), ("+", ":"), ("1", "-."), ("2", (0, (1, 4))))
_MARKERS = "osD^v*Ph<>"
_LIMIT = "matrix product (limit)"
# A bar for every kernel of more cases fills more than a page.
_MOST_BARS = 8
# Of the palette: charts are kept in git, and true colour takes three times the bytes.
_COLORS = 32


def draw_chart(comparisons: Sequence[Comparison], path: Path) -> None:
    """Write a PNG chart with one column of panels for each length distribution.

    Raises
    ------
    EnvironmentMismatchError
        Without matplotlib (extra ``report``).
    NotWritableError
        If ``path`` cannot be written.
    """
    # It warns of a home that cannot be written, and works all the same.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        import matplotlib
    except ImportError:
        raise EnvironmentMismatchError(
            f"the chart needs matplotlib; {pip_install('prefilltune[report]')}"
        ) from None
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from PIL import Image

    cases = {short_title(each) for each in comparisons}
    figure, drawn = (_bars if len(cases) <= _MOST_BARS else _lines)(pyplot, comparisons)
    figure.suptitle(comparisons[0].device, fontsize=11)
    figure.legend(drawn.values(), drawn, loc="outside lower center", ncols=3, fontsize=8)
    drawing = BytesIO()
    figure.savefig(drawing, dpi=110)
    pyplot.close(figure)
    image = (
        Image.open(drawing)
        .convert("RGB")
        .quantize(_COLORS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    )
    packed = BytesIO()
    image.save(packed, format="PNG", optimize=True)
    write_file(path, packed.getvalue())


def _bars(pyplot: Any, comparisons: Sequence[Comparison]) -> tuple[Any, dict[str, Any]]:
    """The figure with a bar for every kernel of every case, and what its legend shows."""
    unit = unit_of(comparisons[0])
    styles = _bar_styles(comparisons)
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
        axes.grid(axis="x", color="0.9")
        axes.margins(x=0.08)
        _plain(axes)
    panels[0][0].set_yticks(range(len(cases)), [_wrapped(case, 32) for case in cases])
    panels[0][0].set_ylim(len(cases) - 0.5, -0.5)
    return figure, drawn


def _lines(pyplot: Any, comparisons: Sequence[Comparison]) -> tuple[Any, dict[str, Any]]:
    """The figure with a row of panels for each workload, and what its legend shows."""
    unit = unit_of(comparisons[0])
    styles = _line_styles(comparisons)
    comparisons = sorted(comparisons, key=place)
    workloads = list(dict.fromkeys(workload_title(each) for each in comparisons))
    lens = list(dict.fromkeys(each.lens for each in comparisons))
    figure, panels = pyplot.subplots(
        len(workloads), len(lens), figsize=(1 + 3.4 * len(lens), 1.2 + 1.9 * len(workloads)),
        sharey=True, squeeze=False, layout="constrained",
    )  # fmt: skip
    drawn: dict[str, Any] = {}
    for row, workload in zip(panels, workloads, strict=True):
        for axes, text in zip(row, lens, strict=True):
            cases = [
                each
                for each in comparisons
                if (workload_title(each), each.lens) == (workload, text)
            ]
            if not cases:
                axes.set_axis_off()
                continue
            drawn.update(_draw_panel(axes, cases, styles))
            axes.set_title(_wrapped(f"{workload}, {text} lengths", 56), fontsize=8)
            axes.grid(axis="y", color="0.9")
            _plain(axes)
        row[0].set_ylabel(f"{unit.name} on useful work", fontsize=8)
    return figure, drawn


def _wrapped(text: str, width: int) -> str:
    return "\n".join(fill(line, width, break_on_hyphens=False) for line in text.splitlines())


def _plain(axes: Any) -> None:
    axes.tick_params(labelsize=8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_panel(
    axes: Any, cases: Sequence[Comparison], styles: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Draw the rates of all kernels over the shapes; what to show in the legend, by name."""
    unit, positions = unit_of(cases[0]), range(len(cases))
    rates: dict[str, list[float]] = {name: [float("nan")] * len(cases) for name in styles}
    for position, each in enumerate(cases):
        work = each.tuned_gflops * each.tuned_ms / unit.gflops
        for row in _drawn(each):
            if row.ms is not None:
                rates[_series(row)][position] = work / row.ms
    drawn = {
        name: axes.plot(positions, rates[name], **styles[name])[0]
        for name in styles
        if not all(map(math.isnan, rates[name]))
    }
    limits = [each.limit_gflops / unit.gflops for each in cases]
    (drawn[_LIMIT],) = axes.plot(positions, limits, "k_--", lw=1)
    axes.set_xticks(positions, [shape_title(each) for each in cases])
    axes.margins(x=0.08)
    axes.set_ylim(bottom=0)
    if absent := [row.name for row in _drawn(cases[0]) if not row.computes_it]:
        axes.set_xlabel(_wrapped(f"none: {'; '.join(absent)}", 70), fontsize=6, color="0.35")
    return drawn


def _draw_case(
    axes: Any, comparison: Comparison, position: int, styles: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Draw the bars of a case around ``position``; what to show in the legend, by name."""
    unit, work = unit_of(comparison), comparison.tuned_gflops * comparison.tuned_ms
    thickness = 0.88 / len(styles)
    drawn = {}
    for row in _drawn(comparison):
        series = _series(row)
        index = list(styles).index(series)
        at = position + (index - (len(styles) - 1) / 2) * thickness
        rate = 0.0 if row.ms is None else work / row.ms
        drawn[series] = axes.barh(at, rate / unit.gflops, thickness * 0.9, **styles[series])
        text = row.without_time if row.ms is None else f"{rate / unit.gflops:.3g}"
        axes.text(rate / unit.gflops, at, f" {text}", va="center", fontsize=6.5,
                  weight="bold" if row.key == "tuned" else "normal")  # fmt: skip
    (limit,) = axes.plot(
        [comparison.limit_gflops / unit.gflops] * 2, [position - 0.46, position + 0.46], "k--", lw=1
    )
    return {**drawn, _LIMIT: limit}


def _bar_styles(comparisons: Sequence[Comparison]) -> dict[str, dict[str, Any]]:
    """How the bars of each series look, in the order in which they are drawn."""
    names, dense = _all_series(comparisons)
    others = [name for name in names if name not in dense]
    looks = {name: {"color": f"C{index}"} for index, name in enumerate(others)}
    looks |= {
        name: {**_DENSE_STYLE, "hatch": _HATCHES[index % len(_HATCHES)]}
        for index, name in enumerate(dense)
    }
    return {name: looks[name] for name in names}


def _line_styles(comparisons: Sequence[Comparison]) -> dict[str, dict[str, Any]]:
    """How the lines of each series look, in the order of the legend."""
    names, dense = _all_series(comparisons)
    others = [name for name in names if name not in dense]
    looks: dict[str, dict[str, Any]] = {
        name: {"color": f"C{index}", "marker": _MARKERS[index % len(_MARKERS)]}
        for index, name in enumerate(others)
    }
    looks |= {
        name: {"color": "0.5", "marker": marker, "linestyle": line}
        for name, (marker, line) in zip(dense, itertools.cycle(_DENSE_LINES), strict=False)
    }
    tuned = names[0]
    return {
        name: {
            **looks[name],
            "linewidth": 2.5 if name == tuned else 1.0,
            "markersize": 5 if name == tuned else 3,
            "zorder": 3 if name == tuned else 2,
        }
        for name in names
    }


def _all_series(comparisons: Sequence[Comparison]) -> tuple[list[str], list[str]]:
    """The names of all series, the tuned kernels' first, and which of them heed no mask."""
    rows = {_series(row): row for each in comparisons for row in _drawn(each)}
    return list(rows), [name for name, row in rows.items() if row.kind == DENSE]


def _drawn(comparison: Comparison) -> list[Row]:
    """Of those that leave other things in padding than the tuned kernel, none."""
    return [row for row in contestants(comparison) if row.in_chart]


def _series(row: Row) -> str:
    name = row.series or row.name
    return f"{name} (wrong on padding)" if row.kind == DENSE else name
