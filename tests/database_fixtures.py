"""Records for the tests: small ones without TVM, and one real schedule."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path

from prefilltune.database import Entry, Provenance, RecordStore, TargetKey, entry_from, record_id

KEY = TargetKey("llvm", "znver4", "2c")
SPEC_TEXT = "padded_hq2_hkv2_d16_float32_s0.25"
SHAPE_TEXT = "b1_q32_kv32"
FILES = ("workloads.json", "provenance.json", "records.json")  # in the order of writing
PROVENANCE = Provenance(
    spec=SPEC_TEXT,
    shape=SHAPE_TEXT,
    space="online_cpu",
    variant={"q_tile": 16, "kv_tile": 32, "packed": False},
    lens="full",
    median_secs=2e-3,
    spread_secs=1e-5,
    max_abs_error=1e-6,
    trials=64,
    seed=0,
    versions={"tvm": "0.27.0.post1", "tvm_ffi": "0.1.14.post1"},
    device={"name": "test", "threads": 2, "clock_mhz": None},
    date="2026-11-22",
)


def small_entry(
    number: int, workload: int = 0, secs: float = 2e-3, letter: str = "ü", **provenance
) -> Entry:
    """An entry that only a store looks into; the first two and ``letter`` make its id."""
    trace = [[["GetSBlock", [], [f"block\n{number} {letter}", "main"], ["b0"]]], [[0, [number, 4]]]]
    return Entry(
        record_id=record_id(str(workload), trace),
        workload_line=(str(workload), f"text of {workload}"),
        trace=trace,
        run_secs=(secs, secs * 1.5),
        target_json={"kind": "llvm"},
        args_info=[["TENSOR", "float32", [1, 32]]],
        provenance=replace(PROVENANCE, median_secs=secs, **provenance),
    )


def filled(root: Path, entries: list[Entry], key: TargetKey = KEY) -> RecordStore:
    store = RecordStore.open(root, key, create=True)
    store.add(entries)
    return store


def edit_provenance(store: RecordStore, **changes) -> Path:
    """Change fields of the frame; returns the file."""
    path = store.folder / "provenance.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return path


def description(q_tile: int = 16):
    """The online description of SPEC_TEXT on SHAPE_TEXT."""
    from prefilltune.tuning.derivation import online_attention
    from prefilltune.workloads import PrefillShape, PrefillSpec, Tiles

    spec, shape = PrefillSpec.parse(SPEC_TEXT), PrefillShape.parse(SHAPE_TEXT)
    return online_attention(spec, shape, Tiles(q_tile, 32))


def scheduled(text: str = "plain"):
    """A schedule of :func:`description` with layouts, decisions and annotations of each kind."""
    from tvm import s_tir

    sch = s_tir.Schedule(description())
    sch.transform_layout(sch.get_sblock("q_rows"), ("write", 0), lambda i, j: (j, i))
    rows, columns = sch.get_loops(sch.get_sblock("acc"))[-2:]
    sch.split(rows, [*sch.sample_perfect_tile(rows, 2, decision=[4, 4])])
    sch.vectorize(columns)
    dot = sch.get_sblock("dot")
    sch.annotate(dot, "sampled", sch.sample_categorical([1, 2], [0.25, 0.75], decision=1))
    sch.annotate(dot, "text", text)
    sch.annotate(dot, "list", [1, 2])
    return sch


def trace_of(sch):
    assert sch.trace is not None
    return sch.trace


def llvm_target():
    from tvm.target import Target

    return Target({"kind": "llvm", "mcpu": "znver4", "num-cores": 2})


@functools.cache
def real_entry() -> Entry:
    return entry_from(
        description(), trace_of(scheduled()), [2e-3, 2.1e-3, 1.0], llvm_target(), PROVENANCE
    )
