"""Comparison files: schema-checked, cases replaced and never lost; timing; the page."""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table

from prefilltune.database import NotWritableError, committed_root, locking
from prefilltune.tuning.cli.compare import require_comparable
from prefilltune.tuning.comparing.changes import (
    BETTER,
    GONE,
    NEW,
    SAME,
    WORSE,
    change_table,
    changes,
    counted,
)
from prefilltune.tuning.comparing.chart import TUNED, bar_rows, draw_chart, limit_text
from prefilltune.tuning.comparing.comparison import (
    DENSE,
    MASKED,
    NO_BASELINE,
    PACKED,
    Comparison,
    Peer,
    geometric_mean,
    read_comparisons,
    readable,
    write_comparisons,
)
from prefilltune.tuning.comparing.peers.registry import PEERS
from prefilltune.tuning.comparing.report import (
    case_title,
    contestants,
    place,
    short_title,
    summary_table,
    table,
    workload_title,
)
from prefilltune.tuning.comparing.revisions import earlier
from prefilltune.tuning.comparing.standing import STOCK, STRONGEST, Mean, Standing
from prefilltune.tuning.comparing.summary import markdown
from prefilltune.tuning.errors import InvalidComparisonError, InvalidOptionError
from prefilltune.tuning.measuring.timing import interleave
from prefilltune.workloads import MASK_MODES, PrefillSpec

CASE = Comparison(
    spec="padded_hq12_hkv12_d64_float32_s0.125",
    shape="b1_q128_kv128",
    lens="full",
    target="llvm-znver4-2c",
    device="a CPU",
    valid_lens=((128,),),
    threads=2,
    versions={"tvm": "0.27.0"},
    record="0123456789abcdef",
    tier="exact",
    tuned_ms=0.5,
    baseline_ms=10.0,
    stock_ms=None,
    stock_trials=None,
    unscheduled_ms=50.0,
    peers={"torch_sdpa_mask": Peer(MASKED, 1.0, max_abs_error=3e-7)},
    limit_gflops=180.0,
    tuned_gflops=100.0,
    max_abs_error=1e-6,
    spread_ms={"tuned": 0.01},
)

GPU_CASE = dataclasses.replace(
    CASE,
    spec="causal_padded_left_hq32_hkv8_d128_float16_s0.08838834764831845",
    shape="b4_q2048_kv2048",
    target="cuda-sm_90a-h100",
    device="a GPU",
    valid_lens=((2048,) * 4,),
    threads=1,
    versions={"tvm": "0.27.0", "torch": "2.11.0", "cuda": "13.0", "driver": "580.1"},
    tuned_ms=0.25,
    baseline_ms=25.0,
    unscheduled_ms=None,
    peers={
        "torch_sdpa_mask": Peer(MASKED, 1.0, max_abs_error=1e-3),
        "torch_flex": Peer(MASKED, 0.5, max_abs_error=1e-3),
        "torch_varlen_with_packing": Peer(MASKED, None, "ImportError: no varlen attention"),
        "torch_varlen_packed": Peer(PACKED, 0.4, max_abs_error=1e-3),
        "torch_cudnn_dense": Peer(DENSE, 0.2),
        "torch_flash_dense": Peer(DENSE, 0.45),
    },
    limit_gflops=750e3,
    tuned_gflops=300e3,
    spread_ms={"tuned": 0.001, "baseline": 0.1},
    clocks_mhz={"sm": 1755, "memory": 2619, "sm_max": 1980},
)


WINDOWED = PrefillSpec(32, 8, 128, window=(64, 64), softcap=50)


def test_cases_are_added_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "comparison.json"
    other = dataclasses.replace(CASE, lens="uniform", stock_ms=2.0, stock_trials=64)
    write_comparisons(path, [CASE])
    write_comparisons(path, [other])
    faster = dataclasses.replace(CASE, tuned_ms=0.4)
    assert write_comparisons(path, [faster]) == [faster, other]
    assert read_comparisons(path) == [faster, other]
    files = {file.name for file in path.parent.iterdir()} - {".comparison.json.lock"}
    assert files == {"comparison.json"}


def test_a_file_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(NotWritableError, match=r"cannot write .*comparison\.json.*choose another"):
        write_comparisons(tmp_path / "file" / "comparison.json", [CASE])


def test_a_file_that_another_process_keeps_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locking, "LOCK_TIMEOUT_SECS", 0.01)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "comparison.json"
    with locking.changing(path), pytest.raises(NotWritableError, match="locked by another process"):
        write_comparisons(path, [CASE])
    write_comparisons(path, [CASE])
    assert read_comparisons(path) == [CASE]


def test_both_kinds_of_device_share_a_file(tmp_path: Path) -> None:
    failed = dataclasses.replace(
        GPU_CASE, lens="uniform", baseline_ms=None, baseline_failure="does not compile"
    )
    write_comparisons(tmp_path / "c.json", [CASE, GPU_CASE, failed])
    assert read_comparisons(tmp_path / "c.json") == [CASE, GPU_CASE, failed]


def test_files_of_version_1_are_read_and_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    new = dataclasses.asdict(CASE)
    old = {name: new[name] for name in new if name not in ("baseline_failure", "clocks_mhz")}
    old["peers"] = {"torch_sdpa_mask": 1.0}
    path.write_text(json.dumps({"schema": 1, "cases": [old]}))
    (read,) = read_comparisons(path)
    assert read == dataclasses.replace(CASE, peers={"torch_sdpa_mask": Peer(MASKED, 1.0)})
    write_comparisons(path, [dataclasses.replace(CASE, lens="uniform")])
    assert json.loads(path.read_text())["schema"] == 3
    assert read_comparisons(path)[0] == read


def test_files_of_version_2_say_by_words_what_a_peer_does_not_compute(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    old = dataclasses.asdict(GPU_CASE)
    del old["cold_ms"]
    says = {"torch_flex": "takes no bias", "torch_flash_dense": "RuntimeError: no kernel"}
    for name, peer in old["peers"].items():
        for new in ("zeros", "right_padded", "computes_it"):
            del peer[new]
        if name in says:
            peer.update(ms=None, failure=says[name])
    path.write_text(json.dumps({"schema": 2, "cases": [old]}))
    (read,) = read_comparisons(path)
    assert [name for name, peer in read.peers.items() if not peer.computes_it] == ["torch_flex"]
    assert read.over_best == 4.0
    write_comparisons(path, [CASE])
    assert read_comparisons(path) == [read, CASE]


def test_committed_comparisons_are_read() -> None:
    paths = sorted(committed_root().glob("*/comparison.json"))
    assert paths
    for path in paths:
        assert read_comparisons(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is no JSON"),
        ('{"schema": 4, "cases": []}', r"4 is not one of \[1, 2, 3\]"),
        ('{"schema": 1, "cases": [{}]}', "is a required property"),
    ],
)
def test_a_malformed_file_is_named_and_kept(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "comparison.json"
    path.write_text(text)
    with pytest.raises(InvalidComparisonError, match=says) as error:
        write_comparisons(path, [CASE])
    assert str(path) in str(error.value)
    assert path.read_text() == text
    with pytest.raises(InvalidComparisonError, match=says):
        require_comparable(tmp_path)  # before anything is measured


def test_a_time_of_zero_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidComparisonError, match="tuned_ms"):
        write_comparisons(tmp_path / "c.json", [dataclasses.replace(CASE, tuned_ms=0.0)])
    assert not (tmp_path / "c.json").exists()


def lines_of(shown: Table) -> list[str]:
    """A table's rows."""
    columns = [each.cells for each in shown.columns]
    return [" | ".join(map(str, cells)) for cells in zip(*columns, strict=True)]


def test_a_case_is_shown_with_every_contestant_and_ratio() -> None:
    shown = table(CASE)
    assert "PyTorch SDPA with mask | 1.000 | 50.0 | 2.00x | 0%" in lines_of(shown)
    assert "TVM hand-written (ragged CPU) | 10.000 | 5.0 | 20.00x | 0%" in lines_of(shown)
    assert "56% of the machine's 180 GFLOP/s" in str(shown.caption)
    assert contestants(CASE)[0].name == "tuned"


def test_a_case_of_a_gpu_names_what_is_no_alternative_and_what_failed() -> None:
    shown = table(GPU_CASE)
    assert [column.header for column in shown.columns] == [
        "kernel", "ms", "TFLOP/s", "tuned is faster by", "spread",
    ]  # fmt: skip
    assert lines_of(shown) == [
        "tuned | 0.2500 | 300.0 |  | 0%",
        "PyTorch SDPA with mask | 1.0000 | 75.0 | 4.00x | 0%",
        "FlexAttention | 0.5000 | 150.0 | 2.00x | 0%",
        "varlen with packing (ImportError: no varlen attention) | failed |  |  | ",
        "varlen, already packed (another layout) | 0.4000 | 187.5 | 1.60x | 0%",
        "cuDNN SDPA without mask (wrong on padding) | 0.2000 | 375.0 | 0.80x | 0%",
        "flash SDPA without mask (wrong on padding) | 0.4500 | 166.7 | 1.80x | 0%",
        "TVM hand-written | 25.0000 | 3.0 | 100.00x | 0%",
    ]
    assert "40% of the machine's 750 TFLOP/s" in str(shown.caption)


def test_a_missing_baseline_is_shown_with_its_reason() -> None:
    case = dataclasses.replace(GPU_CASE, baseline_ms=None, baseline_failure="does not compile")
    assert "TVM hand-written (does not compile) | failed |  |  | " in lines_of(table(case))
    assert case.over_baseline is None


def without_a_baseline(case: Comparison, spec: PrefillSpec) -> Comparison:
    lacking = {peer.name: peer.lacks(spec) for peer in PEERS}
    peers = {
        name: Peer(each.kind, None, lacking[name], computes_it=False) if lacking[name] else each
        for name, each in case.peers.items()
    }
    return dataclasses.replace(
        case, spec=str(spec), baseline_ms=None, baseline_failure=NO_BASELINE, peers=peers
    )


def test_where_tvm_has_no_kernel_there_is_no_ratio_and_tables_say_so() -> None:
    windowed = without_a_baseline(GPU_CASE, WINDOWED)
    assert windowed.over_baseline is None
    assert windowed.over_best == 2.0
    assert "32/8 heads, head_dim 128, float16, padded, window 64,64, softcap 50, full" in str(
        table(windowed).title
    )
    rows = lines_of(table(windowed))
    assert "TVM hand-written (TVM has none) | none |  |  | " in rows
    assert "varlen, already packed (takes no softcap) | none |  |  | " in rows
    assert "cuDNN SDPA without mask (takes no window or softcap) | none |  |  | " in rows
    shown = summary_table([GPU_CASE, windowed])
    assert "40% | FlexAttention | 2.00x | none | none" in lines_of(shown)[1]
    assert lines_of(shown)[-1] == "geometric mean |  |  |  |  | 2.00x | 100.00x | 0.80x"
    assert "padded and causal padded left alone" in str(shown.caption)
    assert summary_table([GPU_CASE]).caption is None


def test_cases_of_every_spec_have_titles_of_their_own() -> None:
    specs = [
        *(PrefillSpec(12, 12, 64, mask_mode=mask_mode) for mask_mode in MASK_MODES),
        *(PrefillSpec(12, 12, 64, window=window) for window in [(64, 64), (64, 0), (None, 64)]),
        PrefillSpec(12, 12, 64, softcap=50),
        PrefillSpec(12, 12, 64, softcap=30, bias="relative"),
        PrefillSpec(12, 12, 64, sm_scale=1.0),
    ]
    cases = [dataclasses.replace(CASE, spec=str(each)) for each in specs]
    for title in (case_title, short_title, workload_title):
        assert len({title(each) for each in cases}) == len(specs)


def test_speeds_are_over_the_best_of_each_kind() -> None:
    assert GPU_CASE.best == ("torch_flex", 0.5)
    assert GPU_CASE.over_best == 2.0
    assert GPU_CASE.over_peer("torch_cudnn_dense") == 0.8
    assert GPU_CASE.over_baseline == 100.0
    assert CASE.over_peer("torch_cudnn_dense") is None
    assert GPU_CASE.over_best_cold is None


def like_with_like(lens: int = 1024, **changes: Any) -> Comparison:
    """A case of which the peers say what they leave in padding."""
    masked = {
        "torch_flex": Peer(MASKED, 0.5, zeros=True),
        "fa3_seqused": Peer(MASKED, 0.2, zeros=False, right_padded=True),
        "fa3_seqused_filled": Peer(MASKED, 0.3, zeros=True, right_padded=True),
        "fa3_varlen_packed": Peer(PACKED, 0.21, zeros=False),
        "cudnn_dense": Peer(DENSE, 0.1, zeros=False),
        "cudnn_padding_mask": Peer(MASKED, None, "not installed", zeros=False, computes_it=False),
    }
    cold = {"tuned": 0.4, "torch_flex": 0.6, "fa3_seqused": 0.44, "fa3_seqused_filled": 0.7}
    return dataclasses.replace(
        GPU_CASE, valid_lens=((lens,) * 4,), peers=masked, cold_ms=cold, **changes
    )


def test_what_writes_zeros_is_compared_with_what_writes_zeros() -> None:
    mixed, full = like_with_like(1024), like_with_like(2048)
    assert mixed.best == ("fa3_seqused_filled", 0.3)
    assert mixed.over_best_cold == pytest.approx(1.5)
    assert full.best == ("fa3_seqused", 0.2)
    assert full.over_best_cold == pytest.approx(1.1)
    spec = dataclasses.replace(PrefillSpec.parse(mixed.spec), padding_output="untouched")
    untouched = dataclasses.replace(mixed, spec=str(spec))
    assert untouched.best == ("fa3_seqused", 0.2)
    packed = {**mixed.peers, "fa3_varlen_packed": Peer(PACKED, 0.19, zeros=False)}
    assert dataclasses.replace(untouched, peers=packed).best == ("fa3_varlen_packed", 0.19)
    assert dataclasses.replace(mixed, peers=packed).best == ("fa3_seqused_filled", 0.3)


def test_what_takes_packed_tensors_is_compared_with_what_takes_such() -> None:
    peers = {
        "torch_sdpa_sequences": Peer(PACKED, 1.5, zeros=False),
        "torch_sdpa_mask": Peer(MASKED, 1.0, zeros=False),
    }
    spec = str(PrefillSpec(12, 12, 64, "float32", layout="packed"))
    case = dataclasses.replace(CASE, spec=spec, valid_lens=((9,),), peers=peers, padded_ms=0.8)
    assert case.best == ("torch_sdpa_sequences", 1.5)
    remarks = {row.key: row.remark for row in contestants(case)}
    assert remarks["tuned"] == remarks["torch_sdpa_sequences"] == ""
    assert remarks["padded"] == remarks["torch_sdpa_mask"] == "another layout"
    assert {row.key: row.computes_it for row in contestants(case)}["baseline"]  # it takes such too


def test_rows_say_what_is_in_padding_and_how_they_do_with_cold_tensors() -> None:
    rows = lines_of(table(like_with_like()))
    assert "tuned (zeros in padding) | 0.2500 | 300.0 |  | 0% | 0.4000 | " in rows
    row = "FlashAttention-3 with lengths (anything in padding, the same lengths padded right)"
    assert f"{row} | 0.2000 | 375.0 | 0.80x | 0% | 0.4400 | 1.10x" in rows
    filled = "FlashAttention-3 with lengths, padding filled (zeros in padding, the same lengths"
    assert any(each.startswith(filled) for each in rows)
    assert any(
        each.startswith("FlashAttention-3, already packed (another layout) | 0.2100 |")
        for each in rows
    )
    assert "cuDNN with padding mask (not installed) | none |  |  |  |  | " in rows
    summary = lines_of(summary_table([like_with_like()]))[0]
    assert "40% | FlashAttention-3 with lengths, padding filled | 1.20x | 1.50x |" in summary
    assert not any("as it was" in each for each in lines_of(table(like_with_like(2048))))


def test_geometric_means_are_over_the_cases_that_have_a_figure() -> None:
    slower = dataclasses.replace(GPU_CASE, lens="uniform", tuned_ms=0.5, baseline_ms=None)
    assert geometric_mean([GPU_CASE, slower], lambda each: each.over_best) == pytest.approx(2**0.5)
    means = lines_of(summary_table([GPU_CASE, slower]))[-1]
    assert means == "geometric mean |  |  |  |  | 1.41x | 100.00x | 0.57x"


def test_cases_of_one_workload_stand_together() -> None:
    longer = dataclasses.replace(CASE, shape="b1_q4096_kv4096")
    mixed = dataclasses.replace(CASE, lens="uniform")
    assert sorted([longer, GPU_CASE, mixed, CASE], key=place) == [CASE, mixed, longer, GPU_CASE]


def test_cases_of_another_version_are_left_out_and_stay_in_the_file(tmp_path: Path) -> None:
    path, other = (
        tmp_path / "comparison.json",
        dataclasses.replace(CASE, spec=f"{CASE.spec}_sparse7"),
    )
    write_comparisons(path, [CASE, other])
    assert {each.spec for each in read_comparisons(path)} == {CASE.spec, other.spec}
    assert readable(read_comparisons(path)) == [CASE]


def test_a_device_stands_where_its_cases_do() -> None:
    slower = dataclasses.replace(GPU_CASE, lens="uniform", tuned_ms=1.0, tuned_gflops=75000.0)
    found = Standing.of([GPU_CASE, slower])
    assert (found.cases, found.share.cases) == (2, 2)
    assert found.over[STRONGEST] == Mean(1.0, 0.5, 2.0, 2, 1)
    assert STOCK not in found.over
    assert found.strongest == {"FlexAttention": 2}
    assert "as fast as the strongest of PyTorch's that is right on padding" in found.sentence()
    absent = dataclasses.replace(GPU_CASE.peers["torch_flex"], ms=None, failure="not installed")
    without = dataclasses.replace(GPU_CASE, peers={**GPU_CASE.peers, "fa3_seqused": absent})
    assert "the strongest of PyTorch's" in Standing.of([without]).sentence()
    others = {**GPU_CASE.peers, "fa3_seqused": GPU_CASE.peers["torch_flex"]}
    among_others = Standing.of([dataclasses.replace(GPU_CASE, peers=others), slower])
    assert "as fast as the strongest other that is right" in among_others.sentence()
    assert "(0.50 to 2.00 times, ahead in 1 of 2 cases)" in found.sentence()
    assert "take 2.00 times as long as" in Standing.of([slower]).sentence()
    assert "behind in the one case" in Standing.of([slower]).sentence()
    alone = dataclasses.replace(CASE, peers={})
    assert (
        Standing.of([alone]).sentence() == "On a CPU, tuned kernels reach 56% of the chip's limit."
    )


def test_a_bar_is_as_long_as_its_figure_says() -> None:
    other = dataclasses.replace(GPU_CASE, lens="uniform", stock_ms=2.5, stock_trials=9)
    rows = {row["name"]: row for row in bar_rows([GPU_CASE, other])}
    assert rows[TUNED]["share"] == pytest.approx(0.4)
    assert rows[TUNED]["says"] == "300.0 TFLOP/s"
    assert rows["TVM's stock schedule rules"]["share"] == pytest.approx(0.04)
    assert rows["TVM's stock schedule rules"]["says"] == "tuned is 10x as fast, in 1 of 2 cases"
    assert limit_text([GPU_CASE]) == "the chip's limit: 750 TFLOP/s"


def test_the_summary_has_a_sentence_and_a_table_for_each_device() -> None:
    mixed = dataclasses.replace(GPU_CASE, lens="uniform", tuned_ms=0.5, tuned_gflops=150000.0)
    page = markdown([GPU_CASE, mixed, CASE], "chart.png")
    assert "![of the chip's limit](chart.png)" in page
    assert "| float16, full | 1 | 300.0 | 40% | 2x (2 to 2) | - | 100x (100 to 100) |" in page
    assert "| all | 2 | 212.1 | 28% | 1.41x (1 to 2) | - | 70.7x (50 to 100) |" in page
    assert "## a CPU\n\nOn a CPU, tuned kernels are 2.00 times as fast" in page
    assert page.count("\n") < 40


def test_where_records_were_timed_if_that_was_elsewhere() -> None:
    here = dataclasses.replace(CASE, lens="uniform", stock_ms=2.0, padded_ms=0.9)
    lent = dataclasses.replace(here, lens="full", timed_elsewhere={
        "tuned": "AMD EPYC with 2 threads", "padded": "", "stock": "a CPU with 8 threads",
    })  # fmt: skip
    never = dataclasses.replace(here, timed_elsewhere={"tuned": ""})
    remarks = {row.key: row.remark for row in contestants(lent)}
    assert remarks["tuned"] == "record timed on AMD EPYC with 2 threads"
    assert remarks["padded"] == "another layout, record timed nowhere"
    assert remarks["stock"].endswith("record timed on a CPU with 8 threads")
    assert all("timed" not in row.remark for row in contestants(here))
    assert any("tuned (record timed nowhere)" in line for line in lines_of(table(never)))
    assert lines_of(summary_table([lent, here]))[0].split(" | ")[1] == "on AMD EPYC with 2 threads"
    assert lines_of(summary_table([lent, here]))[1].split(" | ")[1] == "here"
    assert "record timed" not in [each.header for each in summary_table([here]).columns]
    page = markdown([lent, never], "chart.png")
    assert "1 record of 2 timed on AMD EPYC with 2 threads, 1 record of 2 timed nowhere." in page
    assert "| float32, mixed (1 record of 1 timed nowhere) | 1 |" in page
    assert "timed on" not in markdown([here], "chart.png")


def test_changes_are_told_from_noise() -> None:
    before = [dataclasses.replace(CASE, lens=f"fixed:{each}") for each in range(1, 6)]
    slower, faster, noisy, same, _ = (
        dataclasses.replace(each, tuned_ms=each.tuned_ms * times, spread_ms={"tuned": spread})
        for each, times, spread in zip(
            before, (1.2, 0.8, 1.2, 1.02, 1.0), (0.01, 0.01, 0.2, 0.0, 0.0), strict=True
        )
    )
    found = changes(before, [slower, faster, noisy, same, GPU_CASE])
    assert [(each.kind, each.case.lens) for each in found] == [
        (WORSE, "fixed:1"), (GONE, "fixed:5"), (BETTER, "fixed:2"), (NEW, "full"),
        (SAME, "fixed:3"), (SAME, "fixed:4"),
    ]  # fmt: skip
    assert counted(found) == "1 worse, 1 gone, 1 better, 1 new, 2 same"
    shown = lines_of(change_table(found))
    assert len(shown) == 4
    assert shown[0].startswith("worse | B=1 L=128 H=12 D=64 float32 | fixed:1 | 0.5 | 0.6 | 1.20x")


def test_comparisons_of_a_revision(tmp_path: Path) -> None:
    path = tmp_path / "database" / "comparison.json"

    def git(*arguments: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True)

    with pytest.raises(InvalidOptionError, match="lies in no clone"):
        earlier("HEAD", [path])
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "empty")
    assert earlier("HEAD", [path]) == []  # nor is the folder there
    write_comparisons(path, [CASE])
    git("add", "-A")
    git("commit", "-q", "-m", "one")
    write_comparisons(path, [GPU_CASE])
    assert earlier("HEAD", [tmp_path / "none" / "comparison.json", path]) == [CASE]
    for unknown in ("nothing", "--all"):
        with pytest.raises(InvalidOptionError, match="git does not know"):
            earlier(unknown, [path])
    path.write_text("{")
    git("commit", "-q", "-a", "-m", "broken")
    with pytest.raises(InvalidComparisonError, match="at HEAD"):
        earlier("HEAD", [path])


def test_tables_on_the_terminal() -> None:
    shown = table(GPU_CASE)
    assert shown.row_count == 8
    assert "TFLOP/s" in [column.header for column in shown.columns]
    assert summary_table([GPU_CASE, CASE]).row_count == 3


def test_the_chart_is_a_png(tmp_path: Path) -> None:
    pytest.importorskip("vl_convert", reason="needs the extra [report]")
    draw_chart([CASE, GPU_CASE, without_a_baseline(GPU_CASE, WINDOWED)], tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_interleaving_takes_turns_and_spares_the_slow() -> None:
    order: list[str] = []

    def timer(name: str, seconds: float):
        def run(_: float) -> float:
            order.append(name)
            return seconds

        return run

    times = interleave([timer("fast", 1e-3), timer("slow", 0.5)], rounds=5)
    assert [len(each) for each in times] == [5, 3]
    rounds = [order[first : first + 2] for first in range(0, 8, 2)]
    assert rounds[0] == ["fast", "slow"]  # before what is timed
    assert [sorted(each) for each in rounds] == [["fast", "slow"]] * 4
    assert order[8:] == ["fast", "fast"]


def test_nobody_is_always_timed_behind_the_same() -> None:
    order: list[int] = []
    timers = [lambda _, number=number: order.append(number) or 1.0 for number in range(3)]
    interleave(timers, rounds=20, seconds=1.0, pause=0.0)
    assert {*itertools.pairwise(order)} >= {
        (one, other) for one in range(3) for other in range(3) if one != other
    }


def test_time_calls_counts_calls() -> None:
    from prefilltune.tuning.measuring.cpu import time_calls

    calls = []
    seconds = time_calls([lambda: (calls.append(1), time.sleep(0.002))] * 2, 0.02)
    assert len(calls) >= 2
    assert len(calls) % 2 == 0
    assert 0.002 <= seconds < 1.0
    assert json.dumps(seconds)
