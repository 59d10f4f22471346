"""A page with something of everything: two devices, records, a search, a sweep, changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import dispatch_fixtures as fixtures
from dispatch_fixtures import LONG, SHORT, SPEC
from test_comparison import CASE, GPU_CASE, like_with_like

from prefilltune.database import Entry, Finder, TargetKey
from prefilltune.tuning.comparing.changes import Change, changes
from prefilltune.tuning.comparing.comparison import Comparison
from prefilltune.tuning.page.data import Compared
from prefilltune.tuning.search.trial_log import Trial, TrialLog

WIDE, NARROW = {"q_tile": 64, "packed": False}, {"q_tile": 32, "packed": True}

#: Two searches of one case; the second began where the seconds fall.
TRIALS = [
    Trial("llvm_fused", WIDE, [1], (4e-3,), elapsed=1.0),
    Trial("llvm_stock", {}, [2], failure="build timeout", elapsed=2.0),
    Trial("llvm_fused", NARROW, [3], (2e-3, 3e-3), elapsed=10.0),
    Trial("llvm_stock", {}, [4], (8e-3,), elapsed=1.0),
    Trial("llvm_fused", WIDE, [5], failure="wrong result", elapsed=2.0),
    Trial("llvm_fused", WIDE, [6], (2.5e-3,), elapsed=3.0),
]


def compared(root: Path) -> list[Compared]:
    """A target with a database in ``root``, and one of which nothing but comparisons is known."""
    entries = [fixtures.record(SPEC, SHORT), fixtures.record(SPEC, LONG, packed=True)]
    fixtures.database(root, *entries)
    first, second = (entry.record_id for entry in entries)
    fixtures.swept(
        root, SPEC, {"1x16": {first: 1.0, second: 1.2}, "2x64": {first: 1.5, second: 1.0}}
    )
    key = fixtures.target().key
    log = root / str(key) / "trials" / f"{SPEC}__{SHORT}__full.jsonl"
    TrialLog(log, {"tvm": "0.27.0"}).append(TRIALS)
    gpu = TargetKey.parse(GPU_CASE.target)
    half = replace(GPU_CASE, spec=GPU_CASE.spec.replace("float16", "bfloat16"), tuned_ms=0.6)
    return [
        Compared(gpu, [GPU_CASE, replace(like_with_like(), lens="uniform"), half], Finder([])),
        Compared(key, cases(entries), Finder([root])),
    ]


def cases(entries: list[Entry]) -> list[Comparison]:
    """Of the target with a database."""
    own = replace(
        CASE, target=str(fixtures.target().key), spec=str(SPEC), device="<a & CPU>",
        record=entries[0].record_id,
    )  # fmt: skip
    return [
        replace(own, shape=str(SHORT), valid_lens=((16,),)),
        replace(own, shape=str(LONG), valid_lens=((64, 20),), lens="uniform", tuned_ms=2.0,
                record=entries[1].record_id),
    ]  # fmt: skip


def changed(targets: list[Compared]) -> list[Change]:
    """What differs from a time when one case was faster, one slower, and one was not there."""
    now = [each for target in targets for each in target.comparisons]
    before = [
        replace(now[0], tuned_ms=now[0].tuned_ms / 2),
        replace(now[1], tuned_ms=now[1].tuned_ms * 2),
        replace(now[2], lens="fixed:7"),
        *now[3:],
    ]
    return changes(before, now)
