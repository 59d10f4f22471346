"""The chart of eight bars: of each device's limit, what tuned kernels reach and what others do.

Charts are Vega-Lite specifications; `vl-convert` makes pictures of them, and the page's scripts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from ...database.writing import write_file
from ..environment import pip_install
from ..errors import EnvironmentMismatchError
from .comparison import Comparison
from .report import unit_of
from .standing import Mean, Standing, times

#: What tuned kernels are called.
TUNED = "Tuned by prefilltune"

#: Colours by their part in a chart. Pages have others where it is dark.
INK, QUIET, ACCENT, OTHER, TRACK = "#1b2330", "#5b6675", "#0b6bcb", "#9aa7b8", "#e9edf2"

#: Below this width, in pixels, words are left out.
NARROW = 520
_WIDTH, _STEP, _BAR = 760, 46, 15
# Pixels of a picture for each of the chart's: sharp on dense screens.
_SCALE = 2
_COLORS = 32


def bar_rows(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """The data of a device's bars: tuned kernels, then what they are held against.

    A bar's length is a geometric mean: of tuned kernels over all cases; another's is that, divided
    by how many times as fast tuned kernels are over the cases that have both. So lengths and
    figures agree, also where something computes a few cases only.
    """
    standing, unit = Standing.of(comparisons), unit_of(comparisons[0])
    rate = f"{unit.text(standing.gflops)} {unit.name}"
    rows = [_row(standing, TUNED, 1.0, rate, rate, is_tuned=True)]
    for title, over in standing.figures():
        says = _against(over, standing.cases)
        rows.append(_row(standing, title, over.mean, says, times(over.mean)))
    return rows


def limit_text(comparisons: Sequence[Comparison]) -> str:
    """What the whole width of a device's bars stands for."""
    standing, unit = Standing.of(comparisons), unit_of(comparisons[0])
    return f"the chip's limit: {standing.limit_gflops / unit.gflops:.0f} {unit.name}"


def _row(
    standing: Standing, name: str, slower: float, says: str, short: str, is_tuned: bool = False
) -> dict[str, Any]:
    share = standing.share.mean / slower
    return {"name": name, "share": share, "says": says, "short": short, "tuned": is_tuned}


def _against(over: Mean, cases: int) -> str:
    of = "" if over.cases == cases else f", in {over.cases} of {cases} cases"
    return f"tuned is {times(over.mean)} as fast{of}"


def bars(
    rows: Sequence[Mapping[str, Any]], limit: str, width: int | str, colors: Mapping[str, str]
) -> dict[str, Any]:
    """A device's bars as a Vega-Lite view: names stand above their bars, figures at the right.

    Parameters
    ----------
    rows, limit
        From :func:`bar_rows` and :func:`limit_text`.
    width : int or str
        Pixels, or ``container``.
    colors : Mapping[str, str]
        For ``ink``, ``quiet``, ``accent``, ``other`` and ``track``.
    """
    band = {
        "field": "name", "type": "nominal", "sort": None, "axis": None,
        "scale": {"paddingInner": 0, "paddingOuter": 0},
    }  # fmt: skip
    share = {
        "field": "share", "type": "quantitative", "axis": None,
        "scale": {"domain": [0, 1], "nice": False, "clamp": True},
    }  # fmt: skip
    fill = {
        "condition": {"test": "datum.tuned", "value": colors["accent"]},
        "value": colors["other"],
    }
    ink = {"condition": {"test": "datum.tuned", "value": colors["accent"]}, "value": colors["ink"]}
    bar = {"type": "bar", "height": _BAR, "yOffset": _STEP / 2 - _BAR / 2 - 4, "cornerRadius": 3}
    text = {"type": "text", "baseline": "middle", "yOffset": -_STEP / 2 + 15, "fontSize": 13.5}
    left, right = {**text, "align": "left"}, {**text, "align": "right"}
    percent = "format(datum.share, datum.share < 0.0995 ? '.2~p' : '.0%')"
    return {
        "width": width,
        "height": {"step": _STEP},
        "data": {"values": list(rows)},
        "encoding": {"y": band},
        "layer": [
            {"data": {"values": [{"limit": limit}]},
             "mark": {"type": "text", "align": "right", "baseline": "bottom", "fontSize": 12},
             "encoding": {"x": {"value": "width"}, "y": {"value": -2}, "text": {"field": "limit"},
                          "color": {"value": colors["quiet"]}}},
            {"mark": {**bar, "color": colors["track"]},
             "encoding": {"x": {"datum": 0, "type": "quantitative", "scale": share["scale"],
                                "axis": None}, "x2": {"datum": 1}}},
            {"mark": bar, "encoding": {"x": share, "color": fill}},
            {"mark": left,
             "encoding": {"x": {"value": 0}, "text": {"field": "name"}, "color": ink}},
            {"transform": [{"calculate": f"width < {NARROW} ? datum.short : datum.says",
                            "as": "figure"}],
             "mark": {**right, "fontWeight": "bold"},
             "encoding": {"x": {"value": "width"}, "text": {"field": "figure"}, "color": ink}},
            {"transform": [{"calculate": percent, "as": "percent"}],
             "mark": {**left, "yOffset": bar["yOffset"] + 1, "xOffset": 6, "fontSize": 12},
             "encoding": {"x": share, "text": {"field": "percent"},
                          "color": {"value": colors["quiet"]}}},
        ],
    }  # fmt: skip


def draw_chart(comparisons: Sequence[Comparison], path: Path) -> None:
    """Write a PNG of the bars of every device in ``comparisons``, one below the other.

    Raises
    ------
    EnvironmentMismatchError
        Without vl-convert and Pillow (extra ``report``).
    NotWritableError
        If ``path`` cannot be written.
    """
    colors = {"ink": INK, "quiet": QUIET, "accent": ACCENT, "other": OTHER, "track": TRACK}
    views = []
    for device, cases in by_device(comparisons).items():
        view = bars(bar_rows(cases), limit_text(cases), _WIDTH, colors)
        heading = {
            "text": device, "fontSize": 16, "fontWeight": "bold", "anchor": "start",
            "color": INK, "offset": -12,
        }  # fmt: skip
        views.append({**view, "title": heading})
    write_file(path, picture({"vconcat": views, "spacing": 26}))


def by_device(comparisons: Iterable[Comparison]) -> dict[str, list[Comparison]]:
    """Cases by the device that they were measured on, in their order."""
    found: dict[str, list[Comparison]] = {}
    for each in comparisons:
        found.setdefault(each.device, []).append(each)
    return found


def picture(view: Mapping[str, Any]) -> bytes:
    """A Vega-Lite view as a PNG of few colours: pictures are kept in git.

    Raises
    ------
    EnvironmentMismatchError
        Without vl-convert and Pillow (extra ``report``).
    """
    # The font comes with vl-convert, so that a picture is the same wherever it is drawn.
    config = {"font": "Liberation Sans", "view": {"stroke": None}}
    whole = {**view, "padding": 16, "background": "white", "config": config}
    drawn = vl_convert().vegalite_to_png(json.dumps(whole), scale=_SCALE)
    from PIL import Image

    few = Image.open(BytesIO(drawn)).convert("RGB").quantize(_COLORS, dither=Image.Dither.NONE)
    packed = BytesIO()
    few.save(packed, format="PNG", optimize=True)
    return packed.getvalue()


def vl_convert() -> Any:
    """The module.

    Raises
    ------
    EnvironmentMismatchError
        If it, or Pillow, is not installed.
    """
    try:
        import PIL  # noqa: F401
        import vl_convert as found
    except ImportError:
        raise EnvironmentMismatchError(
            f"charts need vl-convert and Pillow; {pip_install('prefilltune[report]')}"
        ) from None
    return found
