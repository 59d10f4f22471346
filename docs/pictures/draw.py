"""The pictures of docs/explanation/derivation.md, from what the derivation computes::

    python docs/pictures/draw.py

They are SVG, written by hand, since GitHub shows that as it is and a change in one is seen as text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tvm import tirx
from tvm.sym import Analyzer

from prefilltune.tuning.derivation.axes import find_roles, unify
from prefilltune.tuning.derivation.expressions import loads, with_loads
from prefilltune.tuning.derivation.inlining import inline
from prefilltune.tuning.derivation.intervals import find_intervals
from prefilltune.tuning.derivation.stages import read_description
from prefilltune.workloads import PrefillShape, PrefillSpec, plain_attention
from prefilltune.workloads.elementary import BUILT_IN
from prefilltune.workloads.pairs import seen_pairs, valid_positions

HERE = Path(__file__).parent

INK, FAINT, PAPER = "#24292f", "#8c959f", "#ffffff"
#: Of tiles 0, 1 and 2, wherever tiles are told apart.
TILES = ("#0969da", "#bc4c00", "#1a7f37")
VISITED, KEPT, PADDING = "#cfe3fa", "#0969da", "#eaeef2"

#: Elements of an SVG.
Drawing = list[str]


def rect(x: float, y: float, width: float, height: float, fill: str, more: str = "") -> str:
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{fill}"'
        f"{more and ' ' + more}/>"
    )


def text(x: float, y: float, words: str, color: str = INK, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" fill="{color}"{more and " " + more}>{words}</text>'


def line(x: float, y: float, to_x: float, to_y: float, color: str = INK, more: str = "") -> str:
    return (
        f'<line x1="{x:g}" y1="{y:g}" x2="{to_x:g}" y2="{to_y:g}" stroke="{color}"'
        f"{more and ' ' + more}/>"
    )


MIDDLE, END = 'text-anchor="middle"', 'text-anchor="end"'
HEAD = (
    '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
    f'orient="auto"><path d="M0 0L8 4L0 8z" fill="{INK}"/></marker></defs>'
)
ARROW = 'marker-end="url(#head)"'


def svg(width: int, height: int, title: str, drawing: Drawing) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
            f"<title>{title}</title>",
            rect(0, 0, width, height, PAPER),
            *drawing,
            "</svg>\n",
        ]
    )


# The stages of attention, and which reads which

#: Where parameters and stages stand: a column, and a row.
PLACES = {"q": (0, 0.0), "k": (0, 1.0), "v": (0, 2.0), "dot": (1, 0.5), "values": (1, 2.0),
          "scores": (2, 0.5), "row_max": (3, 0.0), "weights": (4, 0.5), "row_sum": (5, 0.5),
          "acc": (5, 1.5), "lse": (6, 0.0), "output": (6, 1.0)}  # fmt: skip
#: What many read is a mark on its readers, in the place of lines to each.
MARKED = "valid_lens"


def stages() -> str:
    """Boxes from left to right, and an arrow from each to those that read it."""
    wide, high, column, row, left, top = 82, 28, 116, 58, 10, 14
    plain = plain_attention(PrefillSpec(4, 2, 8), PrefillShape(2, 7), BUILT_IN)["main"]
    found = read_description(plain).stages
    reduced = {stage.name for stage in found if stage.reduced}
    reads = {stage.name: {load.source.name for load in loads(stage.value)} for stage in found}
    corner = {name: (left + x * column, top + y * row) for name, (x, y) in PLACES.items()}
    drawing: Drawing = [HEAD]
    for reader, sources in reads.items():
        to_x, to_y = corner[reader]
        for source in sorted(sources - {MARKED}):
            x, y = corner[source]
            drawing.append(line(x + wide, y + high / 2, to_x - 2, to_y + high / 2, INK, ARROW))
    for name in (*PLACES, *(reads.keys() - PLACES.keys())):
        x, y = corner[name]
        edge = f'stroke="{INK}" stroke-width="{3 if name in reduced else 1}" rx="4"'
        drawing.append(rect(x, y, wide, high, PAPER if name in reads else PADDING, edge))
        drawing.append(text(x + wide / 2, y + high / 2 + 4, name, INK, MIDDLE))
        if MARKED in reads.get(name, ()):
            drawing.append(rect(x + wide - 9, y + high - 9, 12, 12, TILES[1], 'rx="6"'))
    y = top + 2 * row + high + 26
    x = left
    for fill, more, words in (
        (PADDING, f'stroke="{INK}"', "parameter"),
        (PAPER, f'stroke="{INK}" stroke-width="3"', "reduction"),
        (TILES[1], 'rx="6"', f"reads {MARKED}"),
    ):
        drawing += [rect(x, y, 12, 12, fill, more), text(x + 20, y + 10, words)]
        x += 60 + 7 * len(words)
    title = "The stages of attention, and which reads which"
    return svg(left * 2 + 6 * column + wide, int(y) + 22, title, drawing)


# Which tiles of keys a tile of rows visits

LENGTH, VALID, TILE, CELL = 16, 11, 4, 13
MASKS = {
    "padded": PrefillSpec(1, 1, 16),
    "causal, padded left": PrefillSpec(1, 1, 16, mask_mode="causal_padded_left"),
    "padded, window of 3 to each side": PrefillSpec(1, 1, 16, window=(3, 3)),
}


def visited() -> str:
    """A panel a mask: keys to the right, rows down, a frame for each tile that is visited."""
    drawing: Drawing = []
    side = LENGTH * CELL
    step = side + 50
    for number, (title, spec) in enumerate(MASKS.items()):
        drawing += _panel(40 + number * step, 40, title, spec)
    middle = 40 + side / 2
    turned = f'{MIDDLE} transform="rotate(-90 28 {middle:g})"'
    drawing.append(text(28, middle, "rows", FAINT, turned))
    x = 40
    for fill, more, words in (
        (KEPT, "", "pair that the mask keeps"),
        (VISITED, f'stroke="{INK}"', f"tile of {TILE} by {TILE} that is visited"),
        (PADDING, "", "padding"),
    ):
        drawing += [rect(x, side + 62, 12, 12, fill, more), text(x + 18, side + 72, words)]
        x += 48 + 7 * len(words)
    title = "Which tiles of keys a tile of rows visits, for three masks"
    return svg(3 * step + 20, side + 88, title, drawing)


def _panel(x: int, y: int, title: str, spec: PrefillSpec) -> Drawing:
    side = LENGTH * CELL
    lens = np.array([VALID])
    (kept,), (valid,) = seen_pairs(spec, lens, LENGTH, LENGTH), valid_positions(spec, lens, LENGTH)
    padding = [i for i in range(LENGTH) if not valid[i]]
    tiles = [
        (x + at * CELL, y + row * CELL, TILE * CELL, TILE * CELL)
        for row, begin, end in _ranges(spec)
        for at in range(begin, end, TILE)
    ]
    return [
        text(x + side / 2, y - 22, title, INK, f'{MIDDLE} font-weight="bold"'),
        text(x + side / 2, y - 6, "keys", FAINT, MIDDLE),
        *(rect(x, y + i * CELL, side, CELL, PADDING) for i in padding),
        *(rect(x + i * CELL, y, CELL, side, PADDING) for i in padding),
        rect(x, y, side, side, "none", f'stroke="{FAINT}"'),
        *(rect(*tile, VISITED) for tile in tiles),
        *(
            rect(x + j * CELL + 2, y + i * CELL + 2, CELL - 4, CELL - 4, KEPT)
            for i in range(LENGTH)
            for j in range(LENGTH)
            if kept[i, j]
        ),
        *(rect(*tile, "none", f'stroke="{INK}" stroke-width="1.5"') for tile in tiles),
    ]


def _ranges(spec: PrefillSpec) -> list[tuple[int, int, int]]:
    """First row of each tile of rows, begin and end of the columns that it visits, as derived."""
    plain = plain_attention(spec, PrefillShape(1, LENGTH), BUILT_IN)["main"]
    description = unify(inline(read_description(plain)))
    intervals = find_intervals(description, find_roles(description))

    def number(end: Any) -> int:
        return int(Analyzer().simplify(with_loads(end, lambda _: tirx.const(VALID, "int32"))))

    rows = range(0, LENGTH, TILE)
    seen = [intervals.columns_of(tirx.const(row, "int32"), TILE) for row in rows]
    return [
        (row, number(each.begin), number(each.end)) for row, each in zip(rows, seen, strict=True)
    ]


# A sum that is repaired when the maximum moves

SCORES = ((1.0, 0.2, 2.0, -0.5), (0.5, 3.0, 2.2, 1.0), (2.5, 1.0, -0.2, 2.8))


def repaired() -> str:
    """Scores of a row tile by tile with their running maximum; below, what the sum is made of."""
    width, left, floor, unit = 190, 110, 150, 34
    sums, per_weight = 370, 38
    drawing = [
        text(left - 16, floor - unit / 2, "scores", INK, END),
        text(left - 16, floor - 2 * unit + 4, "row_max", INK, END),
        text(left - 16, sums - 40, "row_sum", INK, END),
        line(left - 8, floor, left + 3 * width, floor, FAINT),
        line(left - 8, sums, left + 3 * width, sums, FAINT),
    ]
    parts: list[float] = []
    maximum = -1e37
    for number, scores in enumerate(SCORES):
        x = left + number * width
        before, maximum = maximum, max(maximum, *scores)
        rescale = 2 ** (before - maximum)
        parts = [*(part * rescale for part in parts), sum(2 ** (s - maximum) for s in scores)]
        drawing += [
            rect(
                x + 12 + 38 * i, floor - max(score, 0) * unit, 26, abs(score) * unit, TILES[number]
            )
            for i, score in enumerate(scores)
        ]
        top = floor - maximum * unit
        drawing.append(line(x, top, x + width - 20, top, INK, 'stroke-width="2"'))
        drawing.append(text(x + width - 24, top - 5, f"{maximum:g}", INK, END))
        if number:
            words = f"rescale = 2^({before:g} - {maximum:g}) = {rescale:g}"
            drawing.append(text(x - 10, sums + 42, words, INK, MIDDLE))
            drawing.append(line(x - 56, sums + 24, x + 34, sums + 24, INK, ARROW))
        y = float(sums)
        for tile, part in enumerate(parts):
            height = part * per_weight
            y -= height
            drawing.append(rect(x + 50, y, 60, height, TILES[tile], f'stroke="{PAPER}"'))
            drawing.append(text(x + 116, y + height / 2 + 4, f"{part:.2f}", TILES[tile]))
        drawing.append(text(x + 80, sums + 16, f"after tile {number}", FAINT, MIDDLE))
    title = "A sum of weights is repaired by one factor when the running maximum moves"
    return svg(left + 3 * width + 10, sums + 56, title, [HEAD, *drawing])


# The orders of a pipelined loop

#: What a step is done by, and how wide it is drawn.
LANES = {"loads": 0, "products": 1, "the rest": 2}
STEPS = {"k": ("loads", 1), "v": ("loads", 1), "dot": ("products", 2), "softmax": ("the rest", 3),
         "acc": ("products", 2)}  # fmt: skip

#: Of each order, (step, tile, when it begins).
ORDERS: Mapping[str, Sequence[tuple[str, int, int]]] = {
    "as described: one step after another": [
        (step, tile, 9 * tile + at)
        for tile in range(3)
        for step, at in (("k", 0), ("v", 1), ("dot", 2), ("softmax", 4), ("acc", 7))
    ],
    "loads a tile ahead: the next tile is loaded once its place is free": [
        ("k", 0, 0), ("v", 0, 1), ("dot", 0, 2), ("k", 1, 4), ("v", 1, 5), ("softmax", 0, 4),
        ("acc", 0, 7), ("dot", 1, 9), ("k", 2, 11), ("v", 2, 12), ("softmax", 1, 11),
        ("acc", 1, 14), ("dot", 2, 16), ("softmax", 2, 18), ("acc", 2, 21),
    ],
    "overlap: the next tile's dot is started with this one's acc, and its softmax runs beside": [
        ("k", 0, 0), ("v", 0, 1), ("k", 1, 2), ("dot", 0, 2), ("softmax", 0, 4),
        ("dot", 1, 7), ("acc", 0, 9), ("k", 2, 9), ("v", 1, 10), ("softmax", 1, 9),
        ("dot", 2, 12), ("acc", 1, 14), ("v", 2, 14), ("softmax", 2, 14), ("acc", 2, 17),
    ],
}  # fmt: skip


def pipelined() -> str:
    """What runs when: a band an order, a lane for each of what a GPU does at the same time."""
    unit, left, lane, band = 24, 70, 22, 112
    drawing: Drawing = []
    for number, (words, steps) in enumerate(ORDERS.items()):
        y = 30 + number * band
        drawing.append(text(left, y - 10, words, INK, 'font-weight="bold"'))
        for name, row in LANES.items():
            drawing.append(text(left - 8, y + row * lane + 14, name, FAINT, END))
        for step, tile, at in steps:
            name, width = STEPS[step]
            x, top = left + at * unit, y + LANES[name] * lane
            drawing.append(rect(x, top, width * unit - 2, lane - 3, TILES[tile], 'rx="3"'))
            middle = x + width * unit / 2 - 1
            drawing.append(
                text(middle, top + 14, f"{step} {tile}" if width > 1 else step, PAPER, MIDDLE)
            )
    height = 30 + len(ORDERS) * band - 30
    return svg(
        left + 27 * unit + 10, height, "Three orders of the steps of a loop over key tiles", drawing
    )


PICTURES = {"stages": stages, "visited": visited, "repaired": repaired, "pipelined": pipelined}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (HERE / f"{name}.svg").write_text(draw(), encoding="utf-8")
