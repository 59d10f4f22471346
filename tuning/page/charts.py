"""The page's charts, as Vega-Lite views whose data the page's script fills in.

Colours are the page's own variables, so that charts turn dark with it.
"""

from __future__ import annotations

from typing import Any

from ..comparing.chart import NARROW, bars

COLORS = {name: f"var(--{name})" for name in ("ink", "quiet", "accent", "other", "track")}

_SERIES = [f"var(--series-{number})" for number in range(1, 7)]
_LOSSES, _LOSS_COLORS = [0.02, 0.05, 0.1, 0.2], [f"var(--loss-{level})" for level in range(5)]

#: Of every chart.
CONFIG: dict[str, Any] = {
    "background": None,
    "padding": 2,
    "font": "inherit",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--quiet)", "titleColor": "var(--quiet)", "labelFontSize": 12,
        "titleFontSize": 12, "titleFontWeight": "normal", "gridColor": "var(--track)",
        "domain": False, "ticks": False, "labelPadding": 6,
    },
    "legend": {"labelColor": "var(--ink)", "titleColor": "var(--quiet)", "labelFontSize": 12,
               "titleFontSize": 12, "titleFontWeight": "normal", "orient": "top",
               "labelLimit": 0, "columnPadding": 56},
    "header": {"labelColor": "var(--ink)", "titleColor": "var(--quiet)", "labelFontSize": 12},
    "axisY": {"minExtent": 30},
}  # fmt: skip


def charts() -> dict[str, dict[str, Any]]:
    """All of them, by name; data stands in ``data.values``."""
    return {
        "bars": bars([], "", "container", COLORS),
        "cases": _cases(),
        "latency": _latency(),
        "roofline": _roofline(),
        "falls": _falls(),
        "failures": _failures(),
        "habits": _habits(),
        "served": _served(),
    }


def _data() -> dict[str, Any]:
    return {"values": []}


def _cases() -> dict[str, Any]:
    """Each case's speed over the strongest other, by length."""
    return {
        "width": "container", "height": 280, "data": _data(),
        "layer": [
            {"mark": {"type": "rule", "strokeDash": [4, 4], "color": "var(--quiet)"},
             "encoding": {"y": {"datum": 1}}},
            {"mark": {"type": "point", "filled": True, "size": 80, "opacity": 0.8,
                      "cursor": "pointer"},
             "encoding": {
                 "x": {"field": "at", "type": "quantitative", "title": "length of a sequence",
                       "scale": {"type": "log", "base": 2, "nice": False, "padding": 16},
                       "axis": {"values": [2**power for power in range(4, 18)], "format": "d",
                                "grid": False}},
                 "y": {"field": "over", "type": "quantitative", "axis": {"format": ".1f"},
                       "title": "times as fast as the strongest other", "scale": {"zero": False}},
                 "color": {"field": "series", "type": "nominal", "title": None,
                           "legend": {"columns": {"expr": f"width < {NARROW} ? 1 : 2"}},
                           "scale": {"range": _SERIES}},
                 "tooltip": [{"field": "name", "title": "case"},
                             {"field": "lens", "title": "lengths"},
                             {"field": "said", "title": "tuned is"},
                             {"field": "strongest", "title": "strongest other"}],
             }},
        ],
    }  # fmt: skip


def _latency() -> dict[str, Any]:
    """Times of everything in a case, on a scale of powers of ten; the lines are spreads."""
    x = {
        "type": "quantitative", "title": "milliseconds a call, on a scale of powers of ten",
        "scale": {"type": "log", "nice": False, "padding": 12},
        "axis": {"format": "~g", "tickCount": 4, "grid": False},
    }  # fmt: skip
    color = {"field": "kind", "type": "nominal", "title": None, "legend": None,
             "scale": {"domain": ["tuned", "masked", "packed", "dense", "tvm"],
                       "range": ["var(--accent)", "var(--series-2)", "var(--series-3)",
                                 "var(--other)", "var(--series-4)"]}}  # fmt: skip
    text = {"type": "text", "baseline": "middle", "yOffset": -10, "color": "var(--ink)"}
    return {
        "width": "container", "height": {"step": 38}, "data": _data(),
        "encoding": {"y": {"field": "name", "type": "nominal", "sort": None, "axis": None,
                           "scale": {"paddingInner": 0, "paddingOuter": 0}}},
        "layer": [
            {"mark": {"type": "rule", "color": "var(--track)", "strokeWidth": 2, "yOffset": 8},
             "encoding": {"x": {"value": 0}, "x2": {"value": "width"}}},
            {"mark": {"type": "rule", "strokeWidth": 4, "yOffset": 8},
             "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}, "color": color}},
            {"mark": {"type": "point", "filled": True, "size": 110, "opacity": 1, "yOffset": 8},
             "encoding": {"x": {**x, "field": "ms"}, "color": color}},
            {"transform": [{"calculate": f"width < {NARROW} ? datum.name : datum.whole",
                            "as": "shown"}],
             "mark": {**text, "align": "left", "fontSize": 13},
             "encoding": {"x": {"value": 0}, "text": {"field": "shown"}}},
            {"mark": {**text, "align": "right", "fontSize": 13, "fontWeight": "bold"},
             "encoding": {"x": {"value": "width"}, "text": {"field": "said"}}},
        ],
    }  # fmt: skip


def _roofline() -> dict[str, Any]:
    """The roof, this case, and the others of its device."""
    x = {
        "field": "intensity", "type": "quantitative", "title": "operations a byte",
        "scale": {"type": "log", "nice": False}, "axis": {"format": "~s", "tickCount": 5},
    }  # fmt: skip
    y = {
        "field": "rate", "type": "quantitative", "title": "rate",
        "scale": {"type": "log", "nice": True}, "axis": {"format": "~s", "tickCount": 5},
    }  # fmt: skip
    return {
        "width": "container", "height": 220, "data": _data(), "encoding": {"x": x, "y": y},
        "layer": [
            {"transform": [{"filter": "datum.part === 'roof'"}],
             "mark": {"type": "line", "color": "var(--ink)", "strokeWidth": 2}},
            {"transform": [{"filter": "datum.part === 'other'"}],
             "mark": {"type": "point", "filled": True, "color": "var(--other)", "size": 24}},
            {"transform": [{"filter": "datum.part === 'case'"}],
             "mark": {"type": "point", "filled": True, "color": "var(--accent)", "size": 160,
                      "opacity": 1}},
        ],
    }  # fmt: skip


def _falls() -> dict[str, Any]:
    """The best so far of each space of a search."""
    return {
        "width": "container", "height": 240, "data": _data(),
        "mark": {"type": "line", "interpolate": "step-after", "strokeWidth": 2.5, "point": True},
        "encoding": {
            "x": {"field": "at", "type": "quantitative", "title": "trials",
                  "axis": {"grid": False, "tickCount": 8}},
            "y": {"field": "ms", "type": "quantitative", "title": "best so far, ms",
                  "scale": {"type": "log", "nice": False, "padding": 14},
                  "axis": {"format": "~g", "tickCount": 5}},
            "color": {"field": "space", "type": "nominal", "title": None,
                      "scale": {"range": _SERIES}},
            "tooltip": [{"field": "space"}, {"field": "at", "title": "at"},
                        {"field": "ms", "title": "ms", "format": ".4~g"}],
        },
    }  # fmt: skip


def _failures() -> dict[str, Any]:
    return {
        "width": "container", "height": {"step": 26}, "data": _data(),
        "encoding": {
            "y": {"field": "kind", "type": "nominal", "sort": None, "title": None,
                  "axis": {"labelColor": "var(--ink)"}},
            "x": {"field": "count", "type": "quantitative", "title": "trials",
                  "axis": {"tickMinStep": 1}},
        },
        "layer": [
            {"mark": {"type": "bar", "color": "var(--series-4)", "cornerRadiusEnd": 3}},
            {"mark": {"type": "text", "align": "left", "dx": 5, "color": "var(--ink)"},
             "encoding": {"text": {"field": "count"}}},
        ],
    }  # fmt: skip


def _habits() -> dict[str, Any]:
    """How often winners choose something (wide), beside how often all do (narrow)."""
    share = {"type": "quantitative", "axis": None, "scale": {"domain": [0, 1], "nice": False}}
    text = {"type": "text", "baseline": "middle", "yOffset": -12, "color": "var(--ink)"}
    return {
        "width": "container", "height": {"step": 42}, "data": _data(),
        "encoding": {"y": {"field": "choice", "type": "nominal", "sort": None, "axis": None,
                           "scale": {"paddingInner": 0, "paddingOuter": 0}}},
        "layer": [
            {"mark": {"type": "bar", "height": 9, "yOffset": 2, "color": "var(--accent)"},
             "encoding": {"x": {**share, "field": "winners"}}},
            {"mark": {"type": "bar", "height": 5, "yOffset": 10, "color": "var(--other)"},
             "encoding": {"x": {**share, "field": "all"}}},
            {"mark": {**text, "align": "left", "fontSize": 13},
             "encoding": {"x": {"value": 0}, "text": {"field": "choice"}}},
            {"transform": [{"calculate": f"width < {NARROW} ? datum.short : datum.said",
                            "as": "shown"}],
             "mark": {**text, "align": "right", "fontSize": 12.5},
             "encoding": {"x": {"value": "width"}, "text": {"field": "shown"}}},
        ],
    }  # fmt: skip


def _served() -> dict[str, Any]:
    """Which kernel serves each measured shape, and its loss."""
    return {
        "width": "container", "height": {"step": 34}, "data": _data(),
        "encoding": {
            "x": {"field": "length", "type": "ordinal", "title": "length",
                  "axis": {"labelAngle": 0}},
            "y": {"field": "batch", "type": "ordinal", "title": "batch"},
        },
        "layer": [
            {"mark": {"type": "rect", "stroke": "var(--surface)", "strokeWidth": 2},
             "encoding": {
                 "color": {"field": "loss", "type": "quantitative",
                           "title": "slower than the best there",
                           "scale": {"type": "threshold", "domain": _LOSSES,
                                     "range": _LOSS_COLORS},
                           "legend": {"format": ".0%"}},
                 "tooltip": [{"field": "shape", "title": "shape"},
                             {"field": "kernel", "title": "kernel"},
                             {"field": "ms", "title": "ms"},
                             {"field": "said", "title": "slower than the best by"},
                             {"field": "noise", "title": "noise", "format": ".1%"}]}},
            {"mark": {"type": "text", "fontSize": 12, "fontWeight": "bold",
                      "color": "var(--loss-ink)"},
             "encoding": {"text": {"field": "kernel"}}},
        ],
    }  # fmt: skip
