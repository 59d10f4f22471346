"""The page's data: what binds a case, how its kernel is scheduled, searches, who serves what."""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import page_fixtures
import pytest
from command_line import parsed
from test_comparison import CASE, GPU_CASE

from prefilltune.database import Entry, Finder, RecordStore, TargetKey, committed_root
from prefilltune.tuning.comparing.comparison import read_comparisons
from prefilltune.tuning.comparing.summary import markdown
from prefilltune.tuning.page.data import Compared, page_data
from prefilltune.tuning.page.rendering import as_json, render
from prefilltune.tuning.page.roofline import Roofline, roofline
from prefilltune.tuning.page.schedules import in_words
from prefilltune.tuning.page.searches import SearchOfCase, habits_of_records, habits_of_trials
from prefilltune.tuning.page.views import options, views

ROOT = Path(__file__).resolve().parent.parent
LARGEST = 3_000_000


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> list[Compared]:
    return page_fixtures.compared(tmp_path_factory.mktemp("database"))


@pytest.fixture(scope="module")
def data(targets: list[Compared]) -> dict[str, Any]:
    return page_data(targets, page_fixtures.changed(targets), "HEAD~1")


def test_what_binds_a_kernel() -> None:
    slow = Roofline(1e9, 1e7, 90.0, 1000.0, 2.0)
    assert (slow.intensity, slow.roof, slow.binds) == (100.0, 200.0, "memory")
    assert "100 operations a byte: memory binds it, and it reaches 45%" in slow.sentence()
    assert "binds it at most, but it reaches 4% of" in replace(slow, gflops=8.0).sentence()
    assert "inputs were cached" in replace(slow, gflops=300.0).sentence()
    fast = replace(slow, bandwidth=50.0, gflops=900.0)
    assert (fast.roof, fast.binds) == (1000.0, "arithmetic")
    assert "not known" in replace(slow, bandwidth=None).sentence()
    assert roofline(GPU_CASE).bandwidth is None  # "a GPU"
    assert roofline(replace(GPU_CASE, device="NVIDIA H100 80GB HBM3")).binds == "arithmetic"


def test_switches_leave_the_cases_that_they_name() -> None:
    mixed = replace(GPU_CASE, lens="uniform", tuned_ms=0.5)
    found = views([GPU_CASE, mixed])
    assert found["all|all|all"]["figures"][0][:2] == [
        "Strongest of PyTorch's that is right on padding", "1.41x",
    ]  # fmt: skip
    assert found["float16|mixed|all"]["figures"][0][1] == "1x"
    assert "bfloat16|all|all" not in found
    switches = options([GPU_CASE, CASE])
    assert list(switches["dtype"]) == ["all", "float16", "float32"]
    assert "bge-base" in switches["model"]["H=12 D=64"]


def test_a_search_in_its_own_words() -> None:
    search = SearchOfCase("a", tuple(page_fixtures.TRIALS))
    assert search.falls() == {
        "llvm_fused": [[1, 1.0, 4e-3], [3, 10.0, 2e-3], [6, 13.0, 2e-3]],
        "llvm_stock": [[4, 11.0, 8e-3]],
    }
    assert search.failures() == {"build timeout": 1, "wrong result": 1}
    habits = {(each.choice, each.value): each for each in habits_of_trials([search])}
    assert set(habits) == {("packed", "true"), ("q tile", "32")}
    assert (habits["q tile", "32"].winners, habits["q tile", "32"].all) == (1.0, 1 / 3)


def committed() -> list[tuple[TargetKey, Entry]]:
    keys = sorted((TargetKey.parse(each.name) for each in committed_root().iterdir()), key=str)
    return [
        (key, entry) for key in keys for entry in RecordStore.open(committed_root(), key).entries
    ]


def test_every_committed_record_is_said_in_words() -> None:
    entries = [entry for _, entry in committed()]
    for entry in entries:
        said = in_words(entry)
        assert said["design space"] == entry.provenance.space
        assert entry.provenance.space.endswith("_stock") or "query rows by" in said["tiles"]
    assert any("KiB" in in_words(entry).get("shared memory of a block", "") for entry in entries)
    assert all(each.all is None for each in habits_of_records(entries))


def test_the_data_of_a_page(data: dict[str, Any], targets: list[Compared]) -> None:
    assert [each["device"] for each in data["devices"]] == ["a GPU", "<a & CPU>"]
    assert len({each["id"] for each in data["cases"]}) == len(data["cases"]) == 5
    assert [each["trials"] for each in data["targets"]] == [0, 6]
    (served,) = data["targets"][1]["serving"]
    assert [(each["kernel"], each["loss"]) for each in served["points"]] == [("A", 0), ("B", 0)]
    texts = json.loads(gzip.decompress(base64.b64decode(data["texts"])))
    for record in data["records"].values():
        assert list(record["stages"]) == ["plain", "online", "tiled"]
        assert "def main" in texts[record["stages"]["plain"]]
    assert data["changes"]["counted"] == "1 worse, 1 gone, 1 better, 1 new, 2 same"
    assert page_data(targets)["changes"] is None


def test_a_case_whose_record_is_of_another_target(targets: list[Compared]) -> None:
    lender = targets[1]
    lent = replace(lender.comparisons[0], tier="portable", timed_elsewhere={"tuned": "a CPU"})
    here = TargetKey("llvm", "anything", "8c")
    page = page_data([Compared(here, [replace(lent, target=str(here))], lender.databases)])
    (case,) = page["cases"]
    assert (case["tier"], case["timed"]) == ("portable", "on a CPU")
    assert case["rows"][0]["remark"] == "record timed on a CPU"
    assert page["records"][case["record"]]["stages"]
    view = page["devices"][0]["views"]["all|all|all"]
    assert view["sentence"].endswith("1 record of 1 timed on a CPU.")
    assert page["targets"][0]["serving"] == []


def test_commands_of_a_page_are_read(data: dict[str, Any]) -> None:
    for case in data["cases"]:
        for command in case["commands"].values():
            parsed(command)


def test_commands_for_the_lengths_of_a_file_leave_its_place_open() -> None:
    case = replace(CASE, lens="histogram:served-0123abcd")
    page = page_data([Compared(TargetKey.parse(CASE.target), [case], Finder([]))])
    commands = page["cases"][0]["commands"]
    for name in ("measure it again", "search again"):
        assert commands[name].endswith(" --lens histogram:FILE")


def test_a_page_is_one_file_that_asks_for_nothing(
    data: dict[str, Any], targets: list[Compared]
) -> None:
    pytest.importorskip("vl_convert", reason="needs the extra [report]")
    page = render(data, options([each for target in targets for each in target.comparisons]))
    body = page[: page.index("<script>")]
    assert not any(each in body for each in ("src=", '<link rel="stylesheet', "@import", "url("))
    assert "&lt;a &amp; CPU&gt;" in body
    assert "<a & CPU>" not in page
    assert as_json("</script>") == '"\\u003c/script>"'


@pytest.mark.slow
def test_a_page_of_500_cases_is_small() -> None:
    pytest.importorskip("vl_convert", reason="needs the extra [report]")
    folder = committed_root() / "cuda-sm_90a-h100"
    one = read_comparisons(folder / "comparison.json")
    many = [replace(each, lens=f"{each.lens}:{n}") for n in range(6) for each in one][:500]
    page = render(
        page_data([Compared(TargetKey.parse(folder.name), many, Finder([]))]), options(many)
    )
    assert len(many) == 500
    assert len(page.encode()) < LARGEST


def test_the_committed_summary_is_of_the_committed_comparisons() -> None:
    files = sorted(committed_root().glob("*/comparison.json"))
    cases = [each for file in files for each in read_comparisons(file)]
    kept = (ROOT / "docs" / "report" / "report.md").read_text(encoding="utf-8")
    again = "make it again: prefilltune report --database database/records --output docs/report"
    assert kept == markdown(cases, "comparison.png"), again
