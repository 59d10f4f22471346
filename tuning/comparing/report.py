"""Comparisons for people: titles, and tables on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from textwrap import shorten

from rich.table import Table

from ...workloads import TVM_MASK_MODES, PrefillShape, PrefillSpec
from ...workloads.baseline import has_baseline, has_ragged_baseline
from ...workloads.phrases import phrase
from ..counting import count
from ..environment import pip_install
from .comparison import DENSE, MASKED, PACKED, PADDED, Comparison, Peer, geometric_mean
from .peers.registry import named_peers

TORCH_HINT = "PyTorch is not installed, so nothing was compared with it; " + pip_install(
    "prefilltune[torch]"
)
_PEERS = named_peers()
_LONGEST_REMARK = 80
# Where there is nothing to compare with, and where it has no time.
_NONE, _NO_TIME = "none", "-"
_ZEROS, _ANYTHING = "zeros in padding", "anything in padding"


@dataclass(frozen=True)
class Row:
    """One kernel of a case.

    Parameters
    ----------
    key : str
        Of its spread.
    name : str
        For people.
    ms : float or None
        None without a time.
    remark : str
        What a reader must know about it, or why it has no time; mostly empty.
    kind : str
        As in :class:`~.comparison.Peer`; empty for TVM's kernels and ours.
    computes_it : bool
        Whether it has a way to compute the case: if not, that it has no time is no failure.
    cold_ms : float or None
        As in :class:`~.comparison.Comparison`.
    """

    key: str
    name: str
    ms: float | None
    remark: str = ""
    kind: str = ""
    computes_it: bool = True
    cold_ms: float | None = None

    @property
    def without_time(self) -> str:
        """What stands where its time would."""
        return "failed" if self.computes_it else _NONE


@dataclass(frozen=True)
class Unit:
    """In what rates are shown."""

    name: str
    gflops: float
    digits: int

    def text(self, gflops: float) -> str:
        """A rate, without the unit."""
        return f"{gflops / self.gflops:.{self.digits}f}"


def peer_title(name: str) -> str:
    """What a peer is called in tables; an unknown one by its name."""
    return _PEERS[name].title if name in _PEERS else name


def unit_of(comparison: Comparison) -> Unit:
    """TFLOP/s for a GPU, GFLOP/s for a CPU."""
    return Unit("TFLOP/s", 1e3, 1) if comparison.on_gpu else Unit("GFLOP/s", 1.0, 1)


def case_title(comparison: Comparison) -> str:
    """One line that says what was run."""
    spec, shape = PrefillSpec.parse(comparison.spec), PrefillShape.parse(comparison.shape)
    return (
        f"batch {shape.batch}, length {_length(shape)}, {_heads(spec)} heads, "
        f"head_dim {spec.head_dim}, {_dtypes(spec)}, {phrase(spec)}, "
        f"{comparison.lens} lengths"
    )


def short_title(comparison: Comparison, separator: str = " ") -> str:
    """What tells a case from others of its device, but for its lengths."""
    spec, shape = PrefillSpec.parse(comparison.spec), PrefillShape.parse(comparison.shape)
    batch = f"B={shape.batch} L={_length(shape)}"
    return f"{batch}{separator}{attention_title(spec)}{separator}{_dtypes(spec)}"


def workload_title(comparison: Comparison) -> str:
    """What tells workloads of one device apart: heads, mask and dtype."""
    spec = PrefillSpec.parse(comparison.spec)
    return f"{attention_title(spec)}, {_dtypes(spec)}"


def shape_title(comparison: Comparison) -> str:
    """What tells shapes of one workload apart."""
    shape = PrefillShape.parse(comparison.shape)
    return f"{shape.batch}x{_length(shape)}"


def attention_title(spec: PrefillSpec) -> str:
    """What tells attentions apart, but for dtypes: heads, mask and scores."""
    return f"H={_heads(spec)} D={spec.head_dim} {phrase(spec, short=True)}".rstrip()


def _dtypes(spec: PrefillSpec) -> str:
    return spec.dtype if spec.lse_dtype is None else f"{spec.dtype} (LSE {spec.lse_dtype})"


def _heads(spec: PrefillSpec) -> str:
    heads = str(spec.num_qo_heads)
    return heads if spec.group_size == 1 else f"{heads}/{spec.num_kv_heads}"


def _length(shape: PrefillShape) -> str:
    return str(shape.qo_len) if shape.qo_len == shape.num_kv else f"{shape.qo_len}/{shape.num_kv}"


def contestants(comparison: Comparison) -> list[Row]:
    """Everything that was to be timed, the tuned kernel first."""
    spec, cold = PrefillSpec.parse(comparison.spec), comparison.cold_ms.get
    in_tvm = has_baseline if comparison.on_gpu else has_ragged_baseline
    zeros = _in_padding(comparison, comparison.writes_zeros)
    remark = _joined(zeros, _elsewhere(comparison, "tuned"))
    rows = [Row("tuned", "tuned", comparison.tuned_ms, remark, cold_ms=cold("tuned"))]
    if comparison.padded_ms is not None:
        rows.append(
            Row(
                PADDED,
                "tuned, padded",
                comparison.padded_ms,
                _joined("another layout", _elsewhere(comparison, PADDED)),
                cold_ms=cold(PADDED),
            )
        )
    rows += [_peer_row(comparison, *named) for named in comparison.peers.items()]
    if comparison.stock_ms is not None:
        known = comparison.stock_trials
        trials = "" if known is None else count(known, "trial")
        remark = _joined(trials, _elsewhere(comparison, "stock"))
        rows.append(
            Row("stock", "TVM stock rules", comparison.stock_ms, remark, cold_ms=cold("stock"))
        )
    remark = comparison.baseline_failure or ("" if comparison.on_gpu else "ragged CPU")
    rows.append(
        Row("baseline", "TVM hand-written", comparison.baseline_ms, remark,
            computes_it=in_tvm(spec), cold_ms=cold("baseline"))
    )  # fmt: skip
    if comparison.unscheduled_ms is not None:
        rows.append(Row("unscheduled", "unscheduled", comparison.unscheduled_ms))
    return rows


def _peer_row(comparison: Comparison, key: str, peer: Peer) -> Row:
    known = _PEERS.get(key)
    padding = _in_padding(comparison, peer.zeros) if peer.kind == MASKED else ""
    moved = "the same lengths padded right" if peer.right_padded else ""
    return Row(
        key,
        known.title if known else key,
        peer.ms,
        peer.failure or _joined(_remark(comparison, peer), padding, moved),
        peer.kind,
        peer.computes_it,
        comparison.cold_ms.get(key),
    )


def _remark(comparison: Comparison, peer: Peer) -> str:
    """What a peer's tensors, or its mask, are to the tuned kernel's."""
    if peer.kind == DENSE:
        return "wrong on padding"
    return "another layout" if (peer.kind == PACKED) != comparison.is_packed else ""


def _joined(*remarks: str) -> str:
    return ", ".join(filter(None, remarks))


def _elsewhere(comparison: Comparison, key: str) -> str:
    """What timed the record of a kernel of ours, if that was not the device of the case."""
    where = comparison.elsewhere(key)
    return where and f"record timed {where}"


def _in_padding(comparison: Comparison, zeros: bool | None) -> str:
    """What is in rows of padding afterwards; empty where there are none, or it is not known."""
    if zeros is None or not comparison.has_padding:
        return ""
    return _ZEROS if zeros else _ANYTHING


def table(comparison: Comparison) -> Table:
    """The table of one case, for the terminal."""
    unit = unit_of(comparison)
    threads = "" if comparison.on_gpu else f", {count(comparison.threads, 'thread')}"
    shown = Table(
        title=case_title(comparison),
        caption=(
            f"{comparison.device}{threads}; tuned reaches {comparison.share_of_limit:.0%} of the "
            f"machine's {comparison.limit_gflops / unit.gflops:.0f} {unit.name}; "
            f"error {comparison.max_abs_error:.1e}; record {comparison.record} ({comparison.tier})"
        ),
        title_justify="left",
        caption_justify="left",
    )
    _fill(shown, _columns(comparison), _rows(comparison))
    return shown


def summary_table(comparisons: Sequence[Comparison]) -> Table:
    """All cases and the geometric mean over them, for the terminal."""
    shown = Table(
        title="Tuned against the best of each kind",
        caption=_about_none(comparisons) or None,
        title_justify="left",
        caption_justify="left",
    )
    _fill(shown, _summary_columns(comparisons), _summary_rows(comparisons))
    return shown


def place(comparison: Comparison) -> tuple[str, int, int, str]:
    """Cases of one workload stand together, from short to long."""
    shape = PrefillShape.parse(comparison.shape)
    return workload_title(comparison), shape.num_kv, shape.batch, comparison.lens


def _about_none(comparisons: Iterable[Comparison]) -> str:
    """A sentence for tables in which something does not compute a case; empty for others."""
    if all(row.computes_it for each in comparisons for row in contestants(each)):
        return ""
    masks = " and ".join(each.replace("_", " ") for each in TVM_MASK_MODES)
    return (
        f'"{_NONE}" stands where a kernel has no way to compute a case, or is not installed: those '
        f"that TVM ships know the masks {masks} alone, and no window, softcap or bias."
    )


def _columns(comparison: Comparison) -> tuple[str, ...]:
    cold = ("cold ms", "tuned is faster by, cold") if comparison.cold_ms else ()
    return ("kernel", "ms", unit_of(comparison).name, "tuned is faster by", "spread", *cold)


def _rows(comparison: Comparison) -> Iterable[tuple[str, ...]]:
    unit, work = unit_of(comparison), comparison.tuned_gflops * comparison.tuned_ms
    columns, cold = len(_columns(comparison)), comparison.cold_ms.get("tuned")
    for row in contestants(comparison):
        remark = shorten(row.remark, _LONGEST_REMARK, placeholder=" ...")
        cells = [f"{row.name} ({remark})" if remark else row.name]
        if row.ms is None:
            cells.append(row.without_time)
        else:
            spread = comparison.spread_ms.get(row.key, 0.0) / row.ms
            cells += [
                _milliseconds(comparison, row.ms), unit.text(work / row.ms),
                _faster(row, row.ms, comparison.tuned_ms), f"{spread:.0%}",
            ]  # fmt: skip
        if cold is not None and row.cold_ms is not None:
            cells += [_milliseconds(comparison, row.cold_ms), _faster(row, row.cold_ms, cold)]
        yield (*cells, *[""] * (columns - len(cells)))


def _faster(row: Row, ms: float, tuned_ms: float) -> str:
    return "" if row.key == "tuned" else f"{ms / tuned_ms:.2f}x"


def _milliseconds(comparison: Comparison, ms: float) -> str:
    return f"{ms:.{_digits(comparison)}f}"


def _digits(comparison: Comparison) -> int:
    return 4 if comparison.on_gpu else 3


def _summary_columns(comparisons: Sequence[Comparison]) -> tuple[str, ...]:
    timed = ("record timed",) if _are_elsewhere(comparisons) else ()
    return (
        "case", *timed, "lengths", f"tuned, {unit_of(comparisons[0]).name}", "of the limit",
        "best right on padding", *_summary_figures(comparisons),
    )  # fmt: skip


def _summary_figures(
    comparisons: Sequence[Comparison],
) -> dict[str, tuple[str, Callable[[Comparison], float | None]]]:
    """What tells how far ahead a case is, by column: the row it is over, and the ratio."""
    cold = {"over the best, cold": ("", lambda each: each.over_best_cold)}
    dense = {
        "over cuDNN without mask (wrong on padding)": (
            "torch_cudnn_dense", lambda each: each.over_peer("torch_cudnn_dense"),
        ),
    }  # fmt: skip
    return {
        "over it": ("", lambda each: each.over_best),
        **(cold if any(each.cold_ms for each in comparisons) else {}),
        "over TVM hand-written": ("baseline", lambda each: each.over_baseline),
        **(dense if comparisons[0].on_gpu else {}),
    }


def _summary_rows(comparisons: Sequence[Comparison]) -> Iterable[tuple[str, ...]]:
    figures, timed = _summary_figures(comparisons).values(), _are_elsewhere(comparisons)
    for each in comparisons:
        best = each.best
        rows = {row.key: row for row in contestants(each)}
        absent = {key for key, row in rows.items() if not row.computes_it}
        yield (
            short_title(each), *[each.elsewhere() or "here"] * timed, each.lens,
            unit_of(each).text(each.tuned_gflops),
            f"{each.share_of_limit:.0%}", rows[best[0]].name if best else _NONE,
            *(_times(ratio(each), _NONE if key in absent else _NO_TIME) for key, ratio in figures),
        )  # fmt: skip
    means = (_times(geometric_mean(comparisons, figure), _NO_TIME) for _, figure in figures)
    yield "geometric mean", *[""] * (4 + timed), *means


def _are_elsewhere(comparisons: Iterable[Comparison]) -> bool:
    """Whether the record of any tuned kernel was not timed on the device of its case."""
    return any(each.elsewhere() for each in comparisons)


def _times(ratio: float | None, without: str) -> str:
    return without if ratio is None else f"{ratio:.2f}x"


def _fill(shown: Table, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    for index, column in enumerate(columns):
        shown.add_column(column, justify="left" if index == 0 else "right")
    for cells in rows:
        shown.add_row(*cells)
