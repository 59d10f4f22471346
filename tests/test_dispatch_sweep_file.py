"""The file of dispatch measurements: what is written is read, and what is wrong is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prefilltune.tuning.deployment import SWEEP_FILE, Point, Sizes, Sweep, read_sweeps, write_sweep
from prefilltune.tuning.errors import InvalidSweepError
from prefilltune.workloads import PrefillShape, PrefillSpec

SWEEP = Sweep(
    spec=str(PrefillSpec(2, 1, 16, "float32")),
    seed=3,
    device={"name": "größer", "threads": 2, "clock_mhz": None},
    date="2026-11-23T10:00:00+00:00",
    versions={"tvm": "0.27.0"},
    records=("0123", "4567"),
    points=(
        Point(PrefillShape(1, 16), "full", {"0123": 1e-6, "4567": 2.5e-6}),
        Point(PrefillShape(2, 16, 99), "uniform", {"0123": 3.25e-3, "4567": 4e-3}),
        Point(PrefillShape(2, 9), "full", {"0123": 1.0, "4567": 2.0}, 0.5, Sizes(2, 7, 8, 9)),
    ),
)
OTHER = replace(SWEEP, spec=str(PrefillSpec(2, 1, 16, "float32", "causal_padded_left")), seed=4)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "records" / "llvm-znver4-2c"
    assert read_sweeps(folder) == {}
    assert write_sweep(folder, SWEEP) == folder / SWEEP_FILE
    assert read_sweeps(folder) == {SWEEP.spec: SWEEP}


def test_a_sweep_stands_beside_those_of_other_specs_and_replaces_its_own(tmp_path: Path) -> None:
    path = write_sweep(tmp_path, SWEEP)
    write_sweep(tmp_path, OTHER)
    again = replace(SWEEP, seed=9, records=("89ab",), points=(
        Point(PrefillShape(1, 16), "full", {"89ab": 1e-6}),
    ))  # fmt: skip
    write_sweep(tmp_path, again)
    assert read_sweeps(tmp_path) == {SWEEP.spec: again, OTHER.spec: OTHER}
    first = path.read_bytes()
    path.unlink()
    write_sweep(tmp_path, again)
    write_sweep(tmp_path, OTHER)
    assert path.read_bytes() == first


def test_times_are_kept_to_five_digits_and_a_point_has_a_line(tmp_path: Path) -> None:
    times = {"0123": 1.23456789e-4, "4567": 2.0}
    path = write_sweep(
        tmp_path, replace(SWEEP, points=(Point(PrefillShape(1, 16), "full", times, 0.01234),))
    )
    (point,) = read_sweeps(tmp_path)[SWEEP.spec].points
    assert point.seconds == {"0123": 1.2346e-4, "4567": 2.0}
    assert (
        '  {"shape": "b1_q16_kv16", "lens": "full", "noise": 0.012, "seconds": [0.00012346, 2.0]}'
        in (path.read_text().splitlines())
    )


def wrong(path: Path, tmp_path: Path) -> str:
    """The error, which names the file and what to do, and leaves the file as it is."""
    before = path.read_bytes()
    with pytest.raises(InvalidSweepError) as caught:
        read_sweeps(tmp_path)
    with pytest.raises(InvalidSweepError):
        write_sweep(tmp_path, OTHER)
    assert path.read_bytes() == before
    message = str(caught.value)
    assert message.startswith(str(path))
    assert message.endswith("restore it from git, or delete it and run: prefilltune sweep")
    return message


@pytest.mark.parametrize("content", [b"", b"{", b"<<<<<<< ours\n", b"\xff\xfe"])
def test_what_is_no_json(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / SWEEP_FILE
    path.write_bytes(content)
    assert "is no JSON" in wrong(path, tmp_path)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (["schema"], 2, "$.schema: 1 was expected"),
        (["sweeps"], {}, "$.sweeps"),
        (["sweeps", 0, "records"], [], "$.sweeps[0].records"),
        (["sweeps", 0, "records"], ["0123", "0123"], "non-unique"),
        (["sweeps", 0, "extra"], 1, "'extra' was unexpected"),
        (["sweeps", 0, "points"], [], "$.sweeps[0].points"),
        (["sweeps", 0, "points", 1, "seconds"], [0, 1.0], "$.sweeps[0].points[1].seconds[0]"),
        (["sweeps", 0, "points", 1, "lens"], None, "$.sweeps[0].points[1].lens"),
        (["sweeps", 0, "points", 2, "packed"], [7, 8], "$.sweeps[0].points[2].packed"),
        (["sweeps", 0, "points", 2, "packed"], [7, 0, 9], "$.sweeps[0].points[2].packed[1]"),
        (["sweeps", 0, "points", 1, "seconds"], [1.0], "2 records, and another number of times at "
                                                       "b2_q16_kv99"),
        (["sweeps", 0, "points", 1, "shape"], "wide", "'wide' does not match"),
        (["sweeps", 0, "points", 1, "shape"], "b0_q16_kv16", "'b0_q16_kv16' does not match"),
    ],
)  # fmt: skip
def test_what_does_not_follow_the_schema(
    place: list[Any], value: Any, message: str, tmp_path: Path
) -> None:
    path = write_sweep(tmp_path, SWEEP)
    data = json.loads(path.read_text())
    parent = data
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = value
    path.write_text(json.dumps(data))
    assert message in wrong(path, tmp_path)
