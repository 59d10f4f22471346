from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import tvm
from database_fixtures import (
    KEY,
    PROVENANCE,
    SPEC_TEXT,
    description,
    filled,
    llvm_target,
    real_entry,
    scheduled,
    trace_of,
)
from tvm import s_tir
from tvm.s_tir import meta_schedule as ms

from prefilltune.database import RecordStore, StaleRecordError, entry_from, schedule
from prefilltune.tuning.derivation import online_attention
from prefilltune.workloads import (
    PrefillShape,
    PrefillSpec,
    SymbolicShape,
    Tiles,
)

REPLAY = """
import sys
from pathlib import Path
from database_fixtures import KEY, description
from prefilltune.database import RecordStore, schedule
import tvm

store = RecordStore.open(Path(sys.argv[1]), KEY)
assert not store.problems
Path(sys.argv[2]).write_text(tvm.ir.save_json(schedule(store.entries[0], description()).mod))
"""


def test_a_fresh_process_replays_to_an_equal_module(tmp_path):
    filled(tmp_path, [real_entry()])
    subprocess.run(
        [sys.executable, "-c", REPLAY, str(tmp_path), str(tmp_path / "module.json")],
        check=True, timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    replayed = tvm.ir.load_json((tmp_path / "module.json").read_text())
    tvm.ir.assert_structural_equal(replayed, scheduled().mod)


def test_importing_the_package_does_not_import_tvm():
    code = "import sys, prefilltune.database; print('tvm' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert done.stdout == "False\n"


def test_the_replayed_trace_is_the_one_recorded(tmp_path):
    store = filled(tmp_path, [real_entry()])
    again = entry_from(
        description(), trace_of(schedule(store.entries[0], description())),
        real_entry().run_secs, llvm_target(), PROVENANCE,
    )  # fmt: skip
    assert again == real_entry()


def test_tvm_itself_opens_the_files_and_finds_the_record(tmp_path):
    slower = replace(real_entry(), run_secs=(9.0,))
    other = entry_from(description(8), trace_of(s_tir.Schedule(description(8))), [1e-3],
                       llvm_target(), PROVENANCE)  # fmt: skip
    store = filled(tmp_path, [other, slower])
    store.add([real_entry()])
    database = ms.database.JSONDatabase(
        str(store.folder / "workloads.json"), str(store.folder / "records.json"),
        allow_missing=False,
    )  # fmt: skip
    assert len(database.get_all_tuning_records()) == 2
    record = database.query_tuning_record(description(), llvm_target(), "main")
    assert record is not None
    assert [float(secs) for secs in record.run_secs or ()] == [2e-3, 2.1e-3, 1.0]
    assert str(record.target) == str(llvm_target())
    assert record.trace.as_python() == trace_of(scheduled()).as_python()
    replayed = database.query_schedule(description(), llvm_target(), "main")
    assert replayed is not None
    tvm.ir.assert_structural_equal(replayed.mod, scheduled().mod)


def test_tvm_reads_text_that_is_not_ascii(tmp_path):
    trace = trace_of(scheduled("größer"))
    store = filled(tmp_path, [entry_from(description(), trace, [1e-3], llvm_target(), PROVENANCE)])
    database = ms.database.JSONDatabase(
        str(store.folder / "workloads.json"), str(store.folder / "records.json")
    )
    record = database.query_tuning_record(description(), llvm_target(), "main")
    assert record is not None
    assert record.trace.as_python() == trace.as_python()


def test_our_lines_are_those_that_tvm_writes(tmp_path):
    paths = [str(tmp_path / name) for name in ("workloads.json", "records.json")]
    database = ms.database.JSONDatabase(*paths)
    database.commit_tuning_record(
        ms.database.TuningRecord(
            trace_of(scheduled()), database.commit_workload(description()),
            list(real_entry().run_secs), llvm_target(),
            ms.arg_info.ArgInfo.from_entry_func(description()),
        )
    )  # fmt: skip

    def shaped(value):  # an index map is JSON in a string, which TVM indents
        if isinstance(value, str) and '"root_index"' in value:
            return json.loads(value)
        return [shaped(item) for item in value] if isinstance(value, list) else value

    index, (trace, run_secs, target, args_info) = json.loads(
        (tmp_path / "records.json").read_text()
    )
    entry = real_entry()
    assert index == 0
    assert shaped(trace) == shaped(entry.trace)
    assert (tuple(run_secs), target, args_info) == (
        entry.run_secs, entry.target_json, entry.args_info,
    )  # fmt: skip


def test_another_description_makes_the_record_stale(tmp_path):
    entry = filled(tmp_path, [real_entry()]).entries[0]
    with pytest.raises(StaleRecordError) as caught:
        schedule(entry, description(8))
    words = [entry.record_id, str(tmp_path), SPEC_TEXT, "q_tile", "db migrate"]
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_trace_is_applied_to_other_sizes_if_its_own_description_is_known():
    spec, tiles = PrefillSpec.parse(SPEC_TEXT), Tiles(16, 32)
    larger = online_attention(spec, PrefillShape(3, 50, 70), tiles)
    symbolic = online_attention(spec, SymbolicShape.fresh(), tiles)
    own = schedule(real_entry(), description())
    for onto in (larger, symbolic):
        found = schedule(real_entry(), description(), onto)
        assert trace_of(found).as_python() == trace_of(own).as_python()
        for there, here in zip(found.mod["main"].params, onto["main"].params, strict=True):
            tvm.ir.assert_structural_equal(there.shape, here.shape, map_free_vars=True)
    with pytest.raises(StaleRecordError, match="another description"):
        schedule(real_entry(), description(8), symbolic)


@pytest.mark.parametrize(
    "damage",
    [
        {"trace": [[["NoSuchInstruction", [], [], []]], []]},
        {"trace": [[["GetSBlock", [], ["no_such_block", "main"], ["b0"]]], []]},
        {"trace": "nonsense"},
        {"workload_line": ("1", "bm9uc2Vuc2U=")},
    ],
)
def test_what_tvm_refuses_is_stale(damage):
    with pytest.raises(StaleRecordError, match=real_entry().record_id):
        schedule(replace(real_entry(), **damage), description())


def test_a_record_names_no_machine_path(tmp_path):
    store = filled(tmp_path, [real_entry()])
    for path in store.folder.iterdir():
        assert os.path.dirname(__file__) not in path.read_text()
        assert ".py" not in path.read_text()


def test_reading_gives_back_what_was_written(tmp_path):
    filled(tmp_path, [real_entry()])
    assert RecordStore.open(tmp_path, KEY).entries == [real_entry()]
