"""Comparison files: schema-checked, cases replaced and never lost; timing; the page."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import pytest

from prefilltune.tuning.comparison import Comparison, read_comparisons, write_comparisons
from prefilltune.tuning.errors import InvalidComparisonError
from prefilltune.tuning.report import contestants, draw_chart, markdown
from prefilltune.tuning.timing import interleave

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
    peers={"torch_sdpa_mask": 1.0},
    limit_gflops=180.0,
    tuned_gflops=100.0,
    max_abs_error=1e-6,
    spread_ms={"tuned": 0.01},
)


def test_cases_are_added_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "comparison.json"
    other = dataclasses.replace(CASE, lens="uniform", stock_ms=2.0, stock_trials=64)
    write_comparisons(path, [CASE])
    write_comparisons(path, [other])
    faster = dataclasses.replace(CASE, tuned_ms=0.4)
    assert write_comparisons(path, [faster]) == [faster, other]
    assert read_comparisons(path) == [faster, other]
    assert [file.name for file in path.parent.iterdir()] == ["comparison.json"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is no JSON"),
        ('{"schema": 2, "cases": []}', "1 was expected"),
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


def test_a_time_of_zero_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidComparisonError, match="tuned_ms"):
        write_comparisons(tmp_path / "c.json", [dataclasses.replace(CASE, tuned_ms=0.0)])
    assert not (tmp_path / "c.json").exists()


def test_the_page_shows_every_contestant_and_ratio() -> None:
    page = markdown([CASE], "chart.png")
    assert "| PyTorch SDPA with mask | 1.000 | 50.0 | 2.00x |" in page
    assert "| TVM hand-written (ragged CPU) | 10.000 | 5.0 | 20.00x |" in page
    assert "56% of 180 GFLOP/s" in page
    assert next(name for _, name, _ in contestants(CASE)) == "tuned"


def test_the_chart_is_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra [report]")
    draw_chart([CASE, dataclasses.replace(CASE, lens="uniform", peers={})], tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_interleaving_alternates_and_spares_the_slow() -> None:
    order: list[str] = []

    def timer(name: str, seconds: float):
        def run(_: float) -> float:
            order.append(name)
            return seconds

        return run

    times = interleave([timer("fast", 1e-3), timer("slow", 0.5)], rounds=5)
    assert [len(each) for each in times] == [5, 3]
    assert order == ["fast", "slow"] * 4 + ["fast", "fast"]


def test_time_calls_counts_calls() -> None:
    from prefilltune.tuning.measure import time_calls

    calls = []
    seconds = time_calls([lambda: (calls.append(1), time.sleep(0.002))] * 2, 0.02)
    assert len(calls) >= 2
    assert len(calls) % 2 == 0
    assert 0.002 <= seconds < 1.0
    assert json.dumps(seconds)
