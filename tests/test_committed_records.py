"""Every record in the tree still replays and compiles, for its own target, on any machine."""

from __future__ import annotations

import pytest

from prefilltune.database import RecordStore, TargetKey, committed_root
from prefilltune.tuning.verification import rebuild_records

TARGETS = sorted(path.name for path in committed_root().iterdir() if path.is_dir())


@pytest.mark.parametrize("name", TARGETS)
def test_committed_records_rebuild(name: str) -> None:
    key = TargetKey.parse(name)
    if key.kind == "cuda":
        pytest.importorskip("cuda.bindings.nvrtc", reason="needs the extra [cuda]")
    store = RecordStore.open(committed_root(), key)
    assert store.entries
    assert not store.problems
    rebuilt = rebuild_records([(key, entry) for entry in store.entries])
    assert [each.failure for each in rebuilt] == [""] * len(store.entries)
