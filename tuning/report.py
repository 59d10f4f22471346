"""Comparisons for people: a table on the terminal, a chart, and a page in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.table import Table

from ..workloads import PrefillShape, PrefillSpec
from .comparison import Comparison
from .errors import EnvironmentMismatchError

_PEER_NAMES = {"torch_sdpa_mask": "PyTorch SDPA with mask"}
TORCH_HINT = (
    "PyTorch is not installed, so nothing was compared with it; run: make setup EXTRAS=torch"
)
_COLUMNS = ("kernel", "ms", "GFLOP/s", "tuned is faster by", "spread")


def case_title(comparison: Comparison) -> str:
    """One line that says what was run."""
    spec, shape = PrefillSpec.parse(comparison.spec), PrefillShape.parse(comparison.shape)
    heads = (
        f"{spec.num_qo_heads} heads"
        if spec.group_size == 1
        else f"{spec.num_qo_heads}/{spec.num_kv_heads} heads"
    )
    length = str(shape.qo_len) if shape.qo_len == shape.num_kv else f"{shape.qo_len}/{shape.num_kv}"
    return (
        f"batch {shape.batch}, length {length}, {heads}, head_dim {spec.head_dim}, {spec.dtype}, "
        f"{spec.mask_mode.replace('_', ' ')}, {comparison.lens} lengths"
    )


def contestants(comparison: Comparison) -> list[tuple[str, str, float]]:
    """(key of the spread, name, milliseconds) of everything timed, the tuned kernel first."""
    rows = [("tuned", "tuned", comparison.tuned_ms)]
    rows += [(key, _PEER_NAMES.get(key, key), ms) for key, ms in comparison.peers.items()]
    if comparison.stock_ms is not None:
        name = f"TVM stock rules ({comparison.stock_trials} trials)"
        rows.append(("stock", name, comparison.stock_ms))
    rows.append(("baseline", "TVM hand-written (ragged CPU)", comparison.baseline_ms))
    rows.append(("unscheduled", "unscheduled", comparison.unscheduled_ms))
    return rows


def table(comparison: Comparison) -> Table:
    """The table of one case, for the terminal."""
    share = comparison.tuned_gflops / comparison.limit_gflops
    shown = Table(
        title=case_title(comparison),
        caption=(
            f"{comparison.device}, {comparison.threads} threads; tuned reaches {share:.0%} of the "
            f"machine's {comparison.limit_gflops:.0f} GFLOP/s; "
            f"error {comparison.max_abs_error:.1e}; record {comparison.record} ({comparison.tier})"
        ),
        title_justify="left",
        caption_justify="left",
    )
    for index, column in enumerate(_COLUMNS):
        shown.add_column(column, justify="left" if index == 0 else "right")
    for cells in _rows(comparison):
        shown.add_row(*cells)
    return shown


def _rows(comparison: Comparison) -> Iterable[tuple[str, ...]]:
    work = comparison.tuned_gflops * comparison.tuned_ms
    for key, name, ms in contestants(comparison):
        ratio = "" if key == "tuned" else f"{ms / comparison.tuned_ms:.2f}x"
        spread = comparison.spread_ms.get(key, 0.0) / ms
        yield name, f"{ms:.3f}", f"{work / ms:.1f}", ratio, f"{spread:.0%}"


def markdown(comparisons: Sequence[Comparison], chart: str | None) -> str:
    """The page: every case, what was measured and how to read it."""
    parts = ["# Tuned kernels compared\n"]
    if chart:
        parts.append(f"![speed over the best other kernel]({chart})\n")
    parts.append(
        "Medians of interleaved runs, each engine in a process of its own with the same number of "
        "threads. GFLOP/s counts pairs that the mask keeps. The limit is a float32 matrix product "
        "through NumPy's BLAS in the same run.\n"
    )
    for each in comparisons:
        share = each.tuned_gflops / each.limit_gflops
        versions = ", ".join(f"{name} {version}" for name, version in sorted(each.versions.items()))
        parts.append(f"## {case_title(each)}\n")
        parts.append(
            f"{each.device}, target `{each.target}`, {each.threads} threads; record "
            f"`{each.record}` ({each.tier}); {share:.0%} of {each.limit_gflops:.0f} GFLOP/s; "
            f"largest error {each.max_abs_error:.1e}; {versions}.\n"
        )
        parts.append(f"| {' | '.join(_COLUMNS)} |\n| --- | ---: | ---: | ---: | ---: |")
        parts += [f"| {' | '.join(cells)} |" for cells in _rows(each)]
        parts.append("")
    return "\n".join(parts)


def draw_chart(comparisons: Sequence[Comparison], path: Path) -> None:
    """Write a PNG bar chart: GFLOP/s of every kernel in every case, with the machine's limit.

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

    names = list(dict.fromkeys(_series(name) for each in comparisons for name in _names(each)))
    height = max(2.5, 0.32 * len(comparisons) * (len(names) + 1) + 1.2)
    figure, axes = pyplot.subplots(figsize=(9, height), layout="constrained")
    bar = 0.8 / len(names)
    for position, each in enumerate(comparisons):
        work = each.tuned_gflops * each.tuned_ms
        for _, name, ms in contestants(each):
            series = names.index(_series(name))
            offset = position + (series - (len(names) - 1) / 2) * bar
            first = position == _first_with(comparisons, _series(name))
            axes.barh(offset, work / ms, bar * 0.92, color=f"C{series}",
                      label=_series(name) if first else None)  # fmt: skip
            axes.text(work / ms, offset, f" {work / ms:.0f}", va="center", fontsize=7)
        axes.plot([each.limit_gflops] * 2, [position - 0.45, position + 0.45], "k--", lw=1,
                  label="matrix product (limit)" if position == 0 else None)  # fmt: skip
    axes.set_yticks(range(len(comparisons)), [_short_title(each) for each in comparisons])
    axes.tick_params(axis="y", labelsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("GFLOP/s on useful work (higher is better)")
    axes.set_title(comparisons[0].device, fontsize=10)
    axes.margins(x=0.08)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _series(name: str) -> str:
    return name.split(" (")[0]


def _names(comparison: Comparison) -> list[str]:
    return [name for _, name, _ in contestants(comparison)]


def _first_with(comparisons: Sequence[Comparison], series: str) -> int:
    return next(
        index
        for index, each in enumerate(comparisons)
        if series in {_series(name) for name in _names(each)}
    )


def _short_title(comparison: Comparison) -> str:
    spec, shape = PrefillSpec.parse(comparison.spec), PrefillShape.parse(comparison.shape)
    return (
        f"B={shape.batch} L={shape.qo_len}\nH={spec.num_qo_heads} D={spec.head_dim}\n"
        f"{comparison.lens}"
    )
