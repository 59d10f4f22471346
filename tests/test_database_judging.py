from __future__ import annotations

import base64
import copy
import json
import struct
from dataclasses import replace

import pytest
from database_fixtures import KEY, real_entry, small_entry

from prefilltune.database import judge
from prefilltune.database.judging import malformation
from prefilltune.database.plausibility import contradiction, doubt
from prefilltune.database.provenance import record_id


def changed(trace=None, **fields):
    """The real entry with parts replaced, and an id that fits."""
    trace = copy.deepcopy(real_entry().trace) if trace is None else trace
    entry = replace(real_entry(), trace=trace, **fields)
    return replace(entry, record_id=record_id(entry.workload_line[0], [trace, str(fields)]))


def with_tiles(tiles):
    """The real trace with another decision of its SamplePerfectTile."""
    trace = copy.deepcopy(real_entry().trace)
    (decision,) = [each for each in trace[1] if isinstance(each[1], list)]
    decision[1] = tiles
    return changed(trace)


def with_instruction(*instruction):
    instructions, decisions = copy.deepcopy(real_entry().trace)
    return changed([[*instructions, list(instruction)], decisions])


def workload_with(node) -> tuple[str, str]:
    hash_, text = real_entry().workload_line
    graph = json.loads(base64.b64decode(text)[8:])
    graph["nodes"].append(node)
    body = json.dumps(graph).encode()
    return hash_, base64.b64encode(struct.pack("<Q", len(body)) + body).decode()


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


MALFORMED = {
    "no trace": changed([]),
    "objects": changed([{}, {}]),
    "blank instruction": changed([[{}], []]),
    "short instruction": changed([[["GetSBlock"]], []]),
    "zero tile": with_tiles([0, 4]),
    "negative tile": with_tiles([-4, -4]),
    "absurd tile": with_tiles([2**40, 1]),
    "huge number": with_tiles([2**70, 1]),
    "half tile": with_tiles([0.5, 8]),
    "true tile": with_tiles([True, 16]),
    "no tiles": with_tiles([]),
    "text for tiles": with_tiles(["/etc/passwd"]),
    "deep nesting": with_instruction("GetSBlock", nested(500), ["q_rows", "main"], ["b0"]),
    "decision of nothing": changed([[], [[0, [1]]]]),
    "no workload": changed(workload_line=("1", "bm9uc2Vuc2U=")),
    "machine code": changed(
        workload_line=workload_with({"type": "ffi.Module", "data": {"path": "/tmp/evil.so"}})
    ),
}
REFUSED_BY_TVM = {
    "unknown instruction": with_instruction("NoSuchInstruction", [], [], []),
    "unknown block": with_instruction("GetSBlock", [], ["no_such_block", "main"], ["b9"]),
    "unknown intrinsic": with_instruction("Tensorize", ["b0"], ["no_such_intrinsic", True], []),
    "path for a block": with_instruction("GetSBlock", [], ["/etc/passwd", "main"], ["b9"]),
    "unknown target": changed(target_json={"kind": "no_such_kind"}),
    "wrong arguments": changed(args_info=[["NO_SUCH", 1]]),
    "zero factor": with_instruction("Split", ["l0", 0, 0], [True, False], ["l1", "l2"]),
}


@pytest.mark.parametrize("entry", MALFORMED.values(), ids=MALFORMED)
def test_malformed_records_are_known_without_tvm(entry):
    assert malformation(entry)
    assert not malformation(real_entry())


def test_hostile_records_are_refused_and_genuine_ones_pass():
    """In one call: each verdict is of its own record, whatever the child died of before."""
    hostile = {**MALFORMED, **REFUSED_BY_TVM}
    genuine = real_entry()
    verdict = judge([genuine, *hostile.values(), changed(run_secs=(2e-3, 2.5e-3))])
    names = {entry.record_id: name for name, entry in hostile.items()}
    assert {names.get(id_, "genuine") for id_ in verdict} == {*hostile}
    assert all(verdict.values())


CRASH = """
import os, signal
from tvm.s_tir import schedule
apply = schedule.Trace.apply_json_to_schedule

def replay(trace, sch):
    name = trace[0][-1][2][0]
    if name == "crash":
        os.kill(os.getpid(), signal.SIGFPE)
    while name == "hang":
        pass
    if name == "exit":
        os._exit(3)
    print("chatter")
    apply(trace, sch)

schedule.Trace.apply_json_to_schedule = staticmethod(replay)
"""


def test_a_crash_costs_the_record_that_it_is_of(tmp_path, monkeypatch):
    """TVM 0.27 was made to crash by traces; a module that does so stands for the next such bug."""
    (tmp_path / "crashing_replay.py").write_text(CRASH)
    monkeypatch.syspath_prepend(tmp_path)
    fine = [real_entry(), changed(run_secs=(2e-3, 2.5e-3))]
    crash, hang, leave = (
        with_instruction("GetSBlock", [], [name, "main"], ["b9"])
        for name in ("crash", "hang", "exit")
    )
    entries = [crash, fine[0], hang, leave, fine[1]]
    assert judge(entries, timeout=3.0, preload=["crashing_replay"]) == {
        crash.record_id: "its replay crashes: SIGFPE",
        hang.record_id: "its replay takes more than 3 s",
        leave.record_id: "its replay crashes: exit status 3",
    }


def test_a_child_that_cannot_start_says_how_to_see_why():
    with pytest.raises(RuntimeError, match="no_such_module"):
        judge([real_entry()], preload=["no_such_module"])


def test_nothing_to_judge_starts_nothing():
    assert judge([]) == {}


@pytest.mark.parametrize(
    ("run_secs", "median", "spread", "words"),
    [
        ((1e-3, 2e-3), 3e-3, 0, "median"),
        ((1e-3, 2e-3), 5e-4, 0, "median"),
        ((1e-3, 2e-3), 1.5e-3, 1e-2, "spread"),
        ((1e-3,), 1e-3, 1e-4, "spread"),
        ((1e-3,), 1e-3, 0, ""),
        ((1e-3, 2e-3), 1.5e-3, 1.5e-3, ""),  # quartiles of two times lie outside of them
    ],
)
def test_times_and_their_summary_must_agree(run_secs, median, spread, words):
    entry = small_entry(0)
    provenance = replace(entry.provenance, median_secs=median, spread_secs=spread)
    reason = contradiction(replace(entry, run_secs=run_secs, provenance=provenance))
    assert (words in reason) if words else not reason


@pytest.mark.parametrize(
    ("lens", "threads", "factor", "is_doubtful"),
    [
        ("full", 2, 0.9, True),
        ("full", 2, 1.1, False),
        ("full", 4, 0.9, False),
        ("full", "many", 0.9, False),  # unknown: the benefit of the doubt
        ("full", 10**9, 0.9, False),
        ("uniform:0.5-1", 2, 0.9, False),  # the shortest lengths have a quarter of the pairs
        ("uniform:0.5-1", 2, 0.2, True),
        ("fixed:32", 2, 0.9, True),
        ("fixed:99", 2, 0.9, False),  # longer than the shape
        ("histogram:/etc/passwd", 2, 1e-9, False),  # names no file that would be read
        ("nonsense", 2, 1e-9, False),
    ],
)
def test_no_machine_is_faster_than_its_limit(lens, threads, factor, is_doubtful):
    limit = 4 * 16 * 2 * 32 * 32 / 2e14  # useful FLOPs of SPEC_TEXT on SHAPE_TEXT, two threads
    entry = small_entry(0, secs=limit * factor, lens=lens, device={"threads": threads})
    assert bool(doubt(entry, KEY)) == is_doubtful


@pytest.mark.parametrize(
    "shape", ["b1_q2147483647_kv2147483647", "b2147483647_q1_kv1", "b1_q32_kv" + "9" * 9]
)
def test_absurd_shapes_cost_no_memory(shape):
    causal = "causal_padded_left_hq2_hkv2_d16_float32_s0.25"
    assert doubt(small_entry(0, spec=causal, shape=shape), KEY) == ""
