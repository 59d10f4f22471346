"""What an attention amounts to in a shape: windows that hide nothing there."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
import tvm_ffi
from database_fixtures import KEY, PROVENANCE, filled, small_entry
from dispatch_fixtures import SHORT, database, record, target
from kernel_checks import kernel_error
from typer.testing import CliRunner

from prefilltune.database import Entry, Finder, Match, NoRecordError, Tier, lookup
from prefilltune.tuning.building.replaying import described_as, replay_record
from prefilltune.tuning.cli import app
from prefilltune.tuning.comparing import cpu_bench
from prefilltune.tuning.deployment import choose_kernel, choose_serving, serving_kernel
from prefilltune.tuning.deployment.library import Built
from prefilltune.workloads import Case, PrefillShape, PrefillSpec, SymbolicShape, parse_lengths
from prefilltune.workloads.pairs import seen_pairs, written_rows

ENDS = (None, 0, 1, 2, 3, 4, 5)
CAUSAL = PrefillSpec(2, 1, 16, "float32", padding="left", window=(None, 0))
#: Which hides nothing up to a length of 16.
WINDOWED = replace(CAUSAL, window=(15, 0))
FITS, LONGER = PrefillShape(1, 16), PrefillShape(1, 17)


@pytest.mark.parametrize("padding", ["right", "left"])
def test_specs_keep_the_same_pairs_if_and_only_if_they_amount_to_the_same(padding):
    for qo_len, kv_len in product(range(1, 6), repeat=2):
        shape, lens = PrefillShape(1, qo_len, kv_len), np.arange(max(qo_len, kv_len) + 2)
        found: dict[bytes, set[PrefillSpec]] = {}
        for window in product(ENDS, repeat=2):
            spec = PrefillSpec(1, 1, 64, padding=padding, window=window)
            pairs = seen_pairs(spec, lens, qo_len, kv_len).tobytes()
            found.setdefault(pairs, set()).add(spec.within(shape))
        assert all(len(each) == 1 for each in found.values()), shape
        assert len(set.union(*found.values())) == len(found), shape


@pytest.mark.parametrize("output", ["zero", "untouched"])
def test_what_a_spec_amounts_to_differs_in_its_window_alone(output):
    spec = PrefillSpec(4, 2, 64, window=(7, 3), softcap=30, padding_output=output)
    within = spec.within(PrefillShape(2, 4, 8))
    assert within == PrefillSpec(4, 2, 64, softcap=30, padding_output=output)
    assert within.within(PrefillShape(2, 4, 8)) == within
    lens = np.arange(9)
    assert (written_rows(within, lens, 4) == written_rows(spec, lens, 4)).all()


def test_lengths_that_nobody_bounds_leave_every_window():
    spec = PrefillSpec(4, 2, 64, window=(0, 0))
    sizes = SymbolicShape.fresh()
    assert spec.within(sizes) is spec
    assert spec.within(SymbolicShape(sizes.batch, 1, 1)) == PrefillSpec(4, 2, 64)
    packed = PrefillSpec(4, 2, 64, layout="packed", window=(0, 0))
    assert packed.within(PrefillShape(2, 1)) is packed


def _entry(number: int, spec: PrefillSpec, shape: PrefillShape, secs: float) -> Entry:
    return small_entry(number, secs=secs, spec=str(spec), shape=str(shape), spread_secs=0.0)


@pytest.mark.parametrize("faster", [WINDOWED, CAUSAL])
def test_the_faster_record_serves_every_spec_that_amounts_to_the_same(
    faster: PrefillSpec, tmp_path: Path
) -> None:
    entries = [
        _entry(number, spec, FITS, 1e-3 if spec == faster else 2e-3)
        for number, spec in enumerate((WINDOWED, CAUSAL))
    ]
    filled(tmp_path, entries)
    for asked in (WINDOWED, CAUSAL, replace(CAUSAL, window=(99, 0))):
        match = lookup([tmp_path], KEY, asked, FITS)
        assert (match.tier, match.entry.provenance.spec) == (Tier.EXACT, str(faster))
        both = Finder([tmp_path]).all_of(KEY, asked, FITS)
        assert {each.entry.provenance.spec for each in both} == {str(WINDOWED), str(CAUSAL)}
    for other in (replace(CAUSAL, window=(14, 0)), replace(CAUSAL, padding="right")):
        with pytest.raises(NoRecordError):
            lookup([tmp_path], KEY, other, FITS, accept=Tier.NEAREST_SHAPE)


def test_where_a_window_hides_something_its_own_records_serve(tmp_path: Path) -> None:
    filled(tmp_path, [_entry(0, CAUSAL, LONGER, 1e-3), _entry(1, WINDOWED, LONGER, 2e-3)])
    for asked in (WINDOWED, CAUSAL):
        match = lookup([tmp_path], KEY, asked, LONGER)
        assert match.entry.provenance.spec == str(asked)
    # In a shape of another length it is causal, and so is the record that stands for it there.
    near = lookup([tmp_path], KEY, WINDOWED, FITS, accept=Tier.NEAREST_SHAPE)
    assert near.entry.provenance.spec == str(CAUSAL)


def test_a_window_has_records_for_the_lengths_where_it_is_another_spec(tmp_path: Path) -> None:
    filled(tmp_path, [_entry(0, CAUSAL, FITS, 1e-3), _entry(1, CAUSAL, LONGER, 1e-3)])
    assert Finder([tmp_path]).groups(KEY, WINDOWED) == [(FITS, "full", PROVENANCE.space)]
    packed = WINDOWED.as_called(layout="packed")
    assert Finder([tmp_path]).groups(KEY, packed) == [(FITS, "full", PROVENANCE.space)]


def test_what_amounts_to_the_same_is_pruned_as_one(tmp_path: Path) -> None:
    specs = [(CAUSAL, FITS, 1e-3), (WINDOWED, FITS, 2e-3)]
    specs += [(CAUSAL, LONGER, 1e-3), (WINDOWED, LONGER, 2e-3)]
    entries = [_entry(number, *each) for number, each in enumerate(specs)]
    store = filled(tmp_path, entries)
    removed = store.prune(1)
    assert [each.record_id for each in removed] == [entries[1].record_id]


@pytest.mark.parametrize(("tuned", "asked"), [(CAUSAL, WINDOWED), (WINDOWED, CAUSAL)])
def test_a_kernel_is_the_one_that_was_measured_where_it_computes_what_is_asked(
    tuned: PrefillSpec, asked: PrefillSpec
) -> None:
    entry = record(tuned, SHORT)
    assert tvm_ffi.structural_equal(replay_record(entry, SHORT, asked), replay_record(entry))
    assert described_as(asked, tuned, SHORT) == tuned
    for sizes in (LONGER, SymbolicShape.fresh()):
        assert described_as(asked, tuned, sizes) == asked
    assert described_as(WINDOWED, replace(CAUSAL, window=(3, 0)), SHORT) == CAUSAL


def test_a_record_of_another_window_serves_every_length_with_the_window_that_is_asked(
    tmp_path: Path,
) -> None:
    root = database(tmp_path, record(CAUSAL, SHORT))
    serving = choose_serving(WINDOWED, target(), Finder([root]))
    assert {*serving.lengths} == {(16, 16)}
    function = serving_kernel(serving, target())
    kernel = tvm.tirx.build(function, target=target().target)[str(function.attrs["global_symbol"])]
    for shape in (SHORT, PrefillShape(2, 40), PrefillShape(1, 9, 33)):
        lens = np.resize([shape.num_kv, 20, 0], shape.batch)
        assert kernel_error(kernel, WINDOWED, shape, lens, 0) <= 1e-5, shape


def test_commands_say_that_a_window_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed: list[Any] = []

    def built(kernels: Any, *_: Any) -> Built:
        fixed.extend(kernels)
        return Built(Path("libprefill.so"), Path(), Path(), ("one", "any"))

    monkeypatch.setattr("prefilltune.tuning.deployment.library.build_kernels", built)
    entry = record(CAUSAL, SHORT)
    root = database(tmp_path / "records", entry)
    match, _ = choose_kernel(WINDOWED, SHORT, target(), Finder([root]))
    assert (match.entry.record_id, match.tier) == (entry.record_id, Tier.EXACT)
    options = ["--heads", "2/1x16", "--padding", "left", "--window", "15,0", "--threads", "1"]
    options += ["--database", str(root)]
    explained = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["explain", *options])
    assert "b1_q16_kv16 as causal_padded_left" in explained.output
    said = CliRunner().invoke(app, ["build", *options])
    line = f"{WINDOWED}: its window hides nothing at b1_q16_kv16: records of {CAUSAL}"
    assert line in said.output, said.output
    assert fixed == [(WINDOWED, SHORT, match)]


def test_two_specs_of_a_plan_that_amount_to_the_same_are_one_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        "prefilltune.tuning.plans.job.run_plan", lambda plan, cases, *_: asked.extend(cases)
    )
    plan = tmp_path / "plan.toml"
    plan.write_text(
        'models = ["e5-mistral-7b", "qwen3-embedding-8b"]\nshapes = ["1x128", "1x8192"]\n'
        'budget = "1m"\n'
    )
    done = CliRunner().invoke(app, ["plan", "run", str(plan), "--database", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert [(each.case.spec.mask_mode, str(each.case.shape)) for each in asked] == [
        ("causal_padded_left", "b1_q128_kv128"),
        ("padded_left_w4095-0", "b1_q8192_kv8192"),
        ("causal_padded_left", "b1_q8192_kv8192"),
    ]


class _Reached(Exception):
    """Holds what was reached."""


def test_rivals_are_measured_without_a_window_that_hides_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And ours is checked as what was asked for."""
    checked: list[Any] = []

    def peers(spec: PrefillSpec, *_: Any) -> None:
        raise _Reached(spec)

    monkeypatch.setattr(cpu_bench, "errors_of", lambda _, case, *rest: checked.append(case) or {})
    monkeypatch.setattr(cpu_bench, "has_ragged_baseline", lambda spec: False)
    monkeypatch.setattr(cpu_bench.Libraries, "of", lambda *_: "")
    monkeypatch.setattr(cpu_bench, "peers_on_a_cpu", peers)
    case = Case(WINDOWED, FITS, parse_lengths("full"))
    match = Match(record(CAUSAL, SHORT), Tier.EXACT, 0.0, KEY, Path())
    bench = cpu_bench.CpuBench(target())
    try:
        with pytest.raises(_Reached) as reached:
            bench.measure(case, match, None)
    finally:
        bench.close(kill=True)
    assert reached.value.args == (CAUSAL,)
    assert checked == [case]
